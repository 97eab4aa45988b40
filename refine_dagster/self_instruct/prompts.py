"""The prompt that asks for new instructions (REFINE-AF section 3.1; methods A, stage 1).

A list of requirements, eight numbered demonstrations, and an open ninth number for the model to go
on from. The wording is this project's own; the requirements are the paper's: varied verbs, varied
wording, varied kinds of task, doable by a model of text alone, English, one or two sentences.
"""

from __future__ import annotations

from collections.abc import Sequence

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
