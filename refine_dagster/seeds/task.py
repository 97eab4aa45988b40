"""The seed task, from which every row of the project descends.

White space is normalised when a `SeedTask` is made. Files that differ only in line ends, the
indentation of an instruction or spaces at line ends thus give the same tasks, row ids and versions.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from refine_dagster.hashing import content_id
from refine_dagster.prompts.example import Example, read_input

TABLE = "seed_tasks"


def normal_line(text: str) -> str:
    """`text` on one line, with single spaces.

    >>> normal_line(" a\\tfew  words\\n")
    'a few words'
    """
    return " ".join(text.split())


def normal_instruction(text: str) -> str:
    """An instruction with LF line ends, stripped lines, and runs of spaces and tabs collapsed.

    >>> normal_instruction("  Sort  these:\\r\\n\\tby size ")
    'Sort these:\\nby size'
    """
    lines = _unix(text).split("\n")
    return "\n".join(re.sub(r"[ \t]+", " ", line).strip() for line in lines).strip()


def normal_field(text: str) -> str:
    """An input or output with LF line ends, no spaces at line ends, and stripped as a whole.

    White space inside a line stays: the task may be about it (code, a table).

    >>> normal_field("if x:  \\r\\n    y\\n\\n")
    'if x:\\n    y'
    """
    return "\n".join(line.rstrip() for line in _unix(text).split("\n")).strip()


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class SeedInstance:
    """One worked example of a task; `input` is "" where there is none, however that is written."""

    input: str
    output: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", read_input(normal_field(self.input)))
        object.__setattr__(self, "output", normal_field(self.output))


@dataclass(frozen=True)
class SeedTask:
    """A task in Self-Instruct's schema (docs/methods.md, section 3.1), white space normalised."""

    seed_id: str  # given in the file, or derived from the content
    name: str
    instruction: str
    instances: tuple[SeedInstance, ...]  # one or more, in file order
    is_classification: bool  # the output is one of a closed set of labels

    def __post_init__(self) -> None:
        if not self.instances:
            raise ValueError(f"seed {self.seed_id!r} has no instance")
        object.__setattr__(self, "seed_id", normal_line(self.seed_id))
        object.__setattr__(self, "name", normal_line(self.name))
        object.__setattr__(self, "instruction", normal_instruction(self.instruction))

    @property
    def example(self) -> Example:
        """The instruction with its first instance."""
        first = self.instances[0]
        return Example(self.instruction, first.input, first.output)

    @property
    def content_key(self) -> str:
        """32 hex digits over instruction and instances, equal for duplicates."""
        return task_content(self.instruction, self.instances)

    def row(self) -> dict[str, Any]:
        """The payload columns of table `seed_tasks`."""
        first = self.instances[0]
        return {
            "seed_id": self.seed_id,
            "name": self.name,
            "instruction": self.instruction,
            "input": first.input,
            "output": first.output,
            "instances": [asdict(instance) for instance in self.instances],
            "is_classification": self.is_classification,
        }

    @property
    def payload_hash(self) -> str:
        """32 hex digits over the whole payload."""
        return content_id(TABLE, self.row())


def task_content(instruction: str, instances: tuple[SeedInstance, ...]) -> str:
    """32 hex digits over an instruction (normalised here) and its instances."""
    pairs = [[instance.input, instance.output] for instance in instances]
    return content_id("seed_content", normal_instruction(instruction), pairs)
