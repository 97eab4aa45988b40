"""The prompt that asks for an input and an output, and the parser of the completion.

The policy sees a few Instruction/Input/Output examples and one instruction, and continues after
`Input:` (docs/methods.md, section 2.2). `<noinput>` stands for an empty input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.prompts.example import NO_INPUT, Example, has_marks, read_input

HEADER = (
    f"Each task has an instruction, an input and an output. The input is {NO_INPUT} where none is "
    "needed."
)
STOP = ("\n\nInstruction:", "\nInstruction:")


def instance_prompt(instruction: str, demonstrations: Sequence[Example]) -> str:
    """The prompt for the instance of `instruction`, ending in `Input:`."""
    blocks = [HEADER, *(example.render() for example in demonstrations)]
    return "\n\n".join([*blocks, f"Instruction: {instruction}\nInput:"])


@dataclass(frozen=True)
class Instance:
    """An input and an output read from a completion; either may be "".

    Attributes:
        problem: why the format gate rejects it: None, `no_output_field`, `empty_output`,
            `empty_input_field`, `several_outputs` or `unfinished`.
    """

    input: str
    output: str
    problem: str | None

    @property
    def format_valid(self) -> bool:
        return self.problem is None


def read_instance(completion: str, *, finished: bool = True) -> Instance:
    """Read a completion of `instance_prompt`.

    Args:
        finished: False where the model stopped on length.

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
    if not marker:
        problem: str | None = "no_output_field"
    elif not given:
        problem = "empty_input_field"
    elif not output:
        problem = "empty_output"
    elif "\nOutput:" in after or "\nInput:" in text:
        problem = "several_outputs"
    elif not finished:
        problem = "unfinished"
    else:
        problem = None
    return Instance(read_input(given), output, problem)


def reads_back(example: Example) -> bool:
    """Whether the format gate reads an example in a prompt as it is, so that it can be shown."""
    read = read_instance(f" {example.input or NO_INPUT}\nOutput: {example.output}")
    as_it_is = read == Instance(example.input, example.output, None)
    return as_it_is and not has_marks(example.instruction)
