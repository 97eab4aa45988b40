"""`Example`: an instruction with one input and one output, and its text format.

Models are trained on this format, prompts show it, and the judge scores it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

NO_INPUT = "<noinput>"
_NO_INPUT = re.compile(r"<?\s*no[\s_-]?input\s*>?|n/a|none", re.IGNORECASE)
# What begins a line of a prompt.
_MARK = re.compile(r"^\s*(?:Instruction|Input|Output|Task\s+\d+)\s*:", re.MULTILINE)


def read_input(text: str) -> str:
    """An input, "" where the text says that there is none.

    >>> read_input("<No input>"), read_input("N/A"), read_input("no inputs")
    ('', '', 'no inputs')
    """
    return "" if _NO_INPUT.fullmatch(text) else text


def number_text(value: object) -> object:
    """A finite number as its text, anything else as it is.

    >>> number_text(2), number_text("2"), number_text(True)
    ('2', '2', True)
    """
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    is_finite = isinstance(value, float) and math.isfinite(value)
    return str(value) if is_integer or is_finite else value


def has_marks(instruction: str) -> bool:
    """Whether a line of an instruction begins like one of a prompt, such as `Output:`."""
    return _MARK.search(instruction) is not None


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
