"""`Example`: an instruction with one input and one output, its text format, and two prompts.

Models are trained on the format, prompts show it, and the judge scores it. The instance prompt asks
for an input and an output: the policy sees a few examples and one instruction, and continues after
`Input:` (docs/methods.md, section 2.2). The zero-shot prompt of SUPER-NI is for fine-tuning and
evaluation (docs/methods.md, section 4).
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from refine_dagster.language import ENGLISH, Language

# Stands for an empty input.
NO_INPUT = "<noinput>"
HEADER = (
    f"Each task has an instruction, an input and an output. The input is {NO_INPUT} where none is "
    "needed."
)
STOP = ("\n\nInstruction:", "\nInstruction:")
# What a sentence ends in.
ENDS = frozenset(string.punctuation) | frozenset("。！？؟।")
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


def instance_prompt(
    instruction: str, demonstrations: Sequence[Example], language: Language = ENGLISH
) -> str:
    """The prompt for the instance of `instruction`, ending in `Input:`."""
    blocks = [language.header or HEADER, *(example.render() for example in demonstrations)]
    return "\n\n".join([*blocks, f"Instruction: {instruction}\nInput:"])


def instance_lesson(example: Example, language: Language = ENGLISH) -> tuple[str, str]:
    """The prompt for an example's instance, without demonstrations, and the right completion.

    >>> instance_lesson(Example("Name a fruit.", "", "a pear"))[1]
    ' <noinput>\\nOutput: a pear\\n\\nInstruction:'
    """
    completion = f" {example.input or NO_INPUT}\nOutput: {example.output}{STOP[0]}"
    return instance_prompt(example.instruction, [], language), completion


@dataclass(frozen=True)
class Instance:
    """An input and an output read from a completion; either may be "".

    `problem` is why the format gate rejects it: `no_output_field`, `empty_output`,
    `empty_input_field`, `several_outputs` or `unfinished`; `refused` where no server would answer.
    """

    input: str
    output: str
    problem: str | None

    @property
    def format_valid(self) -> bool:
        return self.problem is None


def read_instance(completion: str, *, finished: bool = True) -> Instance:
    """Read a completion of `instance_prompt`; it is not finished where the model stopped on length.

    >>> read_instance(" <noinput>\\nOutput: a pear")
    Instance(input='', output='a pear', problem=None)
    >>> read_instance(" red, blue").problem
    'no_output_field'
    """
    text = completion
    for stop in STOP:
        text = text.split(stop, 1)[0]
    before, marker, after = text.partition("\nOutput:")
    given = before.strip()
    output = after.strip()
    problems = {
        "no_output_field": not marker,
        "empty_input_field": not given,
        "empty_output": not output,
        "several_outputs": "\nOutput:" in after or "\nInput:" in text,
        "unfinished": not finished,
    }
    problem = next((name for name, there in problems.items() if there), None)
    return Instance(read_input(given), output, problem)


def reads_back(example: Example) -> bool:
    """Whether the format gate reads an example in a prompt as it is, so that it can be shown."""
    read = read_instance(f" {example.input or NO_INPUT}\nOutput: {example.output}")
    as_it_is = read == Instance(example.input, example.output, None)
    return as_it_is and not has_marks(example.instruction)


def zero_shot_prompt(definition: str, input: str) -> str:
    """The benchmark's prompt with a definition and no examples.

    A field that does not end in ASCII punctuation, or in a script's own full stop, gets a full
    stop; an empty input becomes `<noinput>`. The benchmark's space after `Output:` is left to the
    completion, so that byte-level tokenisers see `Output:` and ` answer` in training and in
    evaluation.

    >>> print(zero_shot_prompt("Name the largest number", "3, 9, 4"))
    Definition: Name the largest number.
    <BLANKLINE>
    Now complete the following example -
    Input: 3, 9, 4.
    Output:
    """
    return (
        f"Definition: {_ended(definition)}\n\n"
        f"Now complete the following example -\nInput: {_ended(input) or NO_INPUT}\nOutput:"
    )


def zero_shot_lesson(example: Example) -> tuple[str, str]:
    """The zero-shot prompt of an example, and its output as the completion."""
    return zero_shot_prompt(example.instruction, example.input), f" {example.output}"


def _ended(text: str) -> str:
    text = text.strip()
    return f"{text}." if text and text[-1] not in ENDS else text
