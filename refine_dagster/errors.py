"""Errors that a user can fix.

Anything a user can cause (a bad seed file, an unknown config field, a spent budget, a held lock) is
a `RefineError`. The command line prints it without a traceback; Dagster shows it as the step's
failure. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

# Findings of one kind that a message has; the others are counted.
SHOWN_OF_A_KIND = 5
_VARIABLE = re.compile(r"`[^`]*`|\d[\d,]*")


class RefineError(Exception):
    """An error with its place and its fix.

    Args:
        what: what is wrong, one sentence without a full stop.
        where: file, line, field, asset or config field; None when `what` already says it.
        fix: what to do about it, an imperative sentence.
    """

    def __init__(self, what: str, *, where: str | None = None, fix: str | None = None) -> None:
        self.what = what
        self.where = where
        self.fix = fix
        super().__init__(
            (f"{where}: " if where else "") + what + (f"\n  Fix: {fix}" if fix else "")
        )


def few_of_each_kind(findings: Iterable[tuple[str, str]]) -> list[str]:
    """The first lines of each kind, then how many more there are of each.

    Args:
        findings: (message, line); messages that differ in numbers or `names` alone are of a kind.

    >>> few_of_each_kind((f"line {n} is empty", f"a:{n}") for n in range(9))[4:]
    ['a:4', '... and 4 more of: line 5 is empty']
    """
    lines: list[str] = []
    counts: Counter[str] = Counter()
    first_left_out: dict[str, str] = {}
    for message, line in findings:
        kind = _VARIABLE.sub("", message)
        counts[kind] += 1
        if counts[kind] <= SHOWN_OF_A_KIND:
            lines.append(line)
        else:
            first_left_out.setdefault(kind, message)
    return lines + [
        f"... and {counts[kind] - SHOWN_OF_A_KIND:,} more of: {message}"
        for kind, message in first_left_out.items()
    ]


def first_line(error: BaseException) -> str:
    """The first line of another library's error, to quote in a `RefineError`."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class BudgetSpentError(RefineError):
    """A budget (`max_requests`, `max_tokens`) stopped the run; everything so far is kept."""
