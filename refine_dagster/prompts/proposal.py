"""The prompt that asks for new instructions, and the parser of its completions.

A list of requirements, eight numbered demonstrations, and an open ninth number from which the model
continues (REFINE-AF, section 3.1; docs/methods.md, section 2.1). The wording is this project's own;
the requirements are the paper's.

The parser discards nothing: a part that cannot be a candidate is kept with the reason, and the
candidates of a completion, in order, contain every non-blank line of its text. Small models
miscount, so a number only marks where a task begins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.language import ENGLISH, Language

REQUIREMENTS = """\
Write a list of different tasks.
1. Begin each task with another verb.
2. Mix questions and requests.
3. Mix writing, sorting into classes and editing.
4. A model that reads only text must be able to do the task.
5. Write English, one or two sentences a task.
"""

# Ends a list that goes on with other text.
STOP = ("\n\n",)


def propose_prompt(demonstrations: Sequence[str], language: Language = ENGLISH) -> str:
    """The prompt for new instructions after `demonstrations`, ending in an open number.

    >>> propose_prompt(["Name a fruit."]).splitlines()[-2:]
    ['Task 1: Name a fruit.', 'Task 2:']
    """
    requirements = language.requirements or REQUIREMENTS.replace(ENGLISH.name, language.name)
    return f"{requirements}\n{task_list(demonstrations)}\nTask {len(demonstrations) + 1}:"


def task_list(instructions: Sequence[str]) -> str:
    """Numbered tasks, one a line; line breaks inside an instruction become spaces."""
    return "\n".join(
        f"Task {number}: {' '.join(text.split())}" for number, text in enumerate(instructions, 1)
    )


_MARK = re.compile(r"^\s*Task\s+\d+\s*[:：][ \t]*(.*)$")


@dataclass(frozen=True)
class Candidate:
    """A part of a completion: an instruction, or text that cannot be one.

    `problem` is None for an instruction; `empty`, `unnumbered` (a line without a number before it),
    `cut_off` (the completion ended within it on length) or `refused` (no server would answer).
    """

    text: str
    problem: str | None = None


def parse_task_list(completion: str, *, finished: bool = True) -> list[Candidate]:
    """Candidates of a completion, which begins after an open `Task 9:`.

    It is not finished where it ended on length; its last candidate is then cut off.

    >>> parse_task_list(" Name a bird.\\nTask 10: Sing.")
    [Candidate(text='Name a bird.', problem=None), Candidate(text='Sing.', problem=None)]
    """
    candidates: list[Candidate] = []
    for index, line in enumerate(completion.split("\n")):
        mark = _MARK.match(line) if index else None
        text = (mark.group(1) if mark else line).strip()
        if index == 0 or mark:
            candidates.append(Candidate(text, None if text else "empty"))
        elif text:
            candidates.append(Candidate(text, "unnumbered"))
    if not finished:
        last = candidates[-1]
        candidates[-1] = Candidate(last.text, last.problem or "cut_off")
    return candidates
