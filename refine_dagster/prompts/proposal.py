"""The prompt that asks for new instructions (REFINE-AF section 3.1; methods A, stage 1).

A list of requirements, eight numbered demonstrations, and an open ninth number for the model to go
on from. The wording is this project's own; the requirements are the paper's: varied verbs, varied
wording, varied kinds of task, doable by a model of text alone, English, one or two sentences.

Reads a completion of the proposal prompt as numbered candidates.

The prompt ends in an open `Task 9:`, so the completion's first piece is a task and each later piece
begins with a number of its own. Small models miscount; the number only marks where a task begins.
Nothing is thrown away: a piece that cannot be a candidate is kept with the reason, and the pieces
of a completion, in order, hold every non-blank line of its text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

REQUIREMENTS = """\
Write a list of different tasks.
1. Begin each task with another verb.
2. Mix questions and requests.
3. Mix writing, sorting into classes and editing.
4. A model that reads only text must be able to do the task.
5. Write English, one or two sentences a task.
"""

# The list may run on past the tasks that are wanted; this ends it.
STOP = ("\n\n",)


def propose_prompt(demonstrations: Sequence[str]) -> str:
    """The prompt for new instructions after `demonstrations`, ending in an open number.

    >>> propose_prompt(["Name a fruit."]).splitlines()[-2:]
    ['Task 1: Name a fruit.', 'Task 2:']
    """
    return f"{REQUIREMENTS}\n{task_list(demonstrations)}\nTask {len(demonstrations) + 1}:"


def task_list(instructions: Sequence[str]) -> str:
    """Numbered tasks, one a line; line breaks inside an instruction become spaces."""
    return "\n".join(
        f"Task {number}: {' '.join(text.split())}" for number, text in enumerate(instructions, 1)
    )


_MARK = re.compile(r"^\s*Task\s+\d+\s*:[ \t]*(.*)$")


@dataclass(frozen=True)
class Candidate:
    """One piece of a completion.

    Attributes:
        text: the candidate instruction, or the text that is none.
        problem: None for a candidate; `empty`, `unnumbered` (a line before which no number
            stands) or `cut_off` (the completion ended at its length limit within it).
    """

    text: str
    problem: str | None = None


def parse_task_list(completion: str, *, finished: bool = True) -> list[Candidate]:
    """Pieces of `completion`, which goes on after an open `Task 9:`.

    Args:
        completion: the model's text.
        finished: False where the completion ended on length; its last piece is then cut off.

    >>> parse_task_list(" Name a bird.\\nTask 10: Sing.")
    [Piece(text='Name a bird.', problem=None), Piece(text='Sing.', problem=None)]
    """
    candidates: list[Candidate] = []
    for place, line in enumerate(completion.split("\n")):
        mark = _MARK.match(line) if place else None
        text = (mark.group(1) if mark else line).strip()
        if place == 0 or mark:
            candidates.append(Candidate(text, None if text else "empty"))
        elif text:
            candidates.append(Candidate(text, "unnumbered"))
    if not finished:
        last = candidates[-1]
        candidates[-1] = Candidate(last.text, last.problem or "cut_off")
    return candidates
