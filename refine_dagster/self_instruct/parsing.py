"""Reads a completion of the proposal prompt as numbered candidates.

The prompt ends in an open `Task 9:`, so the completion's first piece is a task and each later piece
begins with a number of its own. Small models miscount; the number only marks where a task begins.
Nothing is thrown away: a piece that cannot be a candidate is kept with the reason, and the pieces
of a completion, in order, hold every non-blank line of its text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_MARK = re.compile(r"^\s*Task\s+\d+\s*:[ \t]*(.*)$")


@dataclass(frozen=True)
class Piece:
    """One piece of a completion.

    Attributes:
        text: the candidate instruction, or the text that is none.
        problem: None for a candidate; `empty`, `unnumbered` (a line before which no number
            stands) or `cut_off` (the completion ended at its length limit within it).
    """

    text: str
    problem: str | None = None


def parse_task_list(completion: str, *, finished: bool = True) -> list[Piece]:
    """Pieces of `completion`, which goes on after an open `Task 9:`.

    Args:
        completion: the model's text.
        finished: False where the completion ended on length; its last piece is then cut off.

    >>> parse_task_list(" Name a bird.\\nTask 10: Sing.")
    [Piece(text='Name a bird.', problem=None), Piece(text='Sing.', problem=None)]
    """
    pieces: list[Piece] = []
    for place, line in enumerate(completion.split("\n")):
        mark = _MARK.match(line) if place else None
        text = (mark.group(1) if mark else line).strip()
        if place == 0 or mark:
            pieces.append(Piece(text, None if text else "empty"))
        elif text:
            pieces.append(Piece(text, "unnumbered"))
    if not finished:
        last = pieces[-1]
        pieces[-1] = Piece(last.text, last.problem or "cut_off")
    return pieces
