"""Errors that a user can fix.

Anything a user can cause (a bad seed file, an unknown config field, a spent budget, a held lock) is
a `RefineError`. The command line prints it without a traceback; Dagster shows it as the step's
failure. Any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations


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


def first_line(error: BaseException) -> str:
    """The first line of another library's error, to quote in a `RefineError`."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


class BudgetSpentError(RefineError):
    """A budget (`max_requests`, `max_tokens`) stopped the run; everything so far is kept."""
