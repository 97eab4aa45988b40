"""Operations on instructions: the six of TeaMs-RL (docs/methods.md, section 5.1), and plug-ins.

The templates are this project's own, in the format of every other task. The instruction line of an
operation is word for word one that the offline base model has learnt (`primer_templates.yaml`), and
the operation has the name of its primer family. A larger model learns from the two demonstrations.

An executor that does not follow may repeat its prompt instead. Words of the prompt that are in no
instruction are an operation's markers; a rewrite with one is eliminated.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from refine_dagster.prompts.example import HEADER, Example
from refine_dagster.registry import OPERATIONS

# Parts of the prompt's format, common to all operations; compared without regard to case.
FORM_MARKERS = (
    *("instruction:", "input:", "output:", "<noinput>", "rewritten instruction"),
    *("given instruction", "rewritten prompt", "given prompt", "new prompt"),
)


@dataclass(frozen=True)
class Operation:
    """A textual operation, named as in the registry and in the primer, if it has a family there."""

    name: str
    description: str  # one sentence for reports
    instruction: str  # the line that asks the executor for it
    demonstrations: tuple[tuple[str, str], ...]  # (before, after) pairs
    in_depth: bool = True  # evolves its parent; breadth writes another instruction

    @property
    def markers(self) -> tuple[str, ...]:
        """Words of a leaked prompt, lower case."""
        return (*FORM_MARKERS, self.instruction.lower().rstrip("."))

    def prompt(self, text: str) -> str:
        """The prompt that asks for this operation on `text`, which becomes one line."""
        shown = [Example(self.instruction, *pair).render() for pair in self.demonstrations]
        asked = f"Instruction: {self.instruction}\nInput: {one_line(text)}\nOutput:"
        return "\n\n".join([HEADER, *shown, asked])


def one_line(text: str) -> str:
    return " ".join(text.split())


BREADTH = Operation(
    "breadth",
    "Writes another, rarer instruction of the same domain.",
    "Write a new, rarer instruction on the same subject.",
    (
        ("Describe a boat in one sentence.", "Write a riddle whose answer is a lighthouse."),
        ("Give me a tip about bread.", "Name three things that an oven would never say."),
    ),
    in_depth=False,
)
CONSTRAINTS = Operation(
    "constraints",
    "Adds one requirement that the answer must keep.",
    "Add a constraint to this instruction.",
    (
        ("Write a sentence about a garden.", "Write a sentence about a garden. Use 8 words."),
        ("Name a tool.", "Name a tool. Begin with the letter s."),
    ),
)
DEEPENING = Operation(
    "deepening",
    "Asks for more depth on the same question.",
    "Make the instruction ask for more depth.",
    (
        ("Describe a train.", "Describe a train and explain why people like it."),
        ("Name a season.", "Name a season and tell what changes in nature then."),
    ),
)
CONCRETIZING = Operation(
    "concretizing",
    "Puts a specific thing in the place of a general one.",
    "Make the instruction more concrete.",
    (
        ("Write two sentences about music.", "Write two sentences about an old violin."),
        ("Tell a short story about animals.", "Tell a short story about a shy fox."),
    ),
)
REASONING = Operation(
    "reasoning",
    "Makes the answer need one more step of thought.",
    "Add a reasoning step to the task.",
    (
        ("Add the two numbers.", "Add the two numbers, then say if the sum is even or odd."),
        ("Count the words.", "Count the words, then multiply the result by 3."),
    ),
)
COMPLICATE_INPUT = Operation(
    "complicate_input",
    "Puts data into the instruction, so that it is harder and stands alone.",
    "Put harder data into the instruction.",
    (
        ("Find the largest number.", "Find the largest number in this list: 4, 19, 7, 12."),
        ("Sort some words.", "Sort these words from A to Z: spoon, plate, cup, fork."),
    ),
)
# The published operations, by name.
NAMES = OPERATIONS.own
# The number of operations of an episode and of a seed's evolution.
EPISODE_LENGTH = 6


@cache
def operation_named(name: str) -> Operation:
    operation: Operation = OPERATIONS.get(name)
    return operation
