"""`Example`: an instruction with one input and one output, and its text format.

Models are trained on this format, prompts show it, and the judge scores it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NO_INPUT = "<noinput>"


@dataclass(frozen=True)
class Example:
    """An instruction with one input (may be empty) and one output."""

    instruction: str
    input: str
    output: str

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Example:
        """The example of a row that has the three as columns."""
        return cls(row["instruction"], row["input"], row["output"])

    def render(self) -> str:
        """The example as a block of text, without a blank line after it.

        >>> print(Example("Name a fruit.", "", "a pear").render())
        Instruction: Name a fruit.
        Input: <noinput>
        Output: a pear
        """
        return (
            f"Instruction: {self.instruction}\nInput: {self.input or NO_INPUT}\n"
            f"Output: {self.output}"
        )


def examples_of(rows: Iterable[Mapping[str, Any]]) -> list[Example]:
    """The rows' examples, in an order that depends on their texts alone."""
    return sorted(map(Example.of, rows), key=Example.render)
