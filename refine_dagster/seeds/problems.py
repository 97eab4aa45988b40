"""The findings of a seed file, all reported together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refine_dagster.errors import RefineError, few_of_each_kind

Severity = Literal["error", "warning", "note"]
# The message of a SeedFileError prints this many; `.problems` holds all.
PRINTED = 40


@dataclass(frozen=True)
class SeedProblem:
    """One finding in a seed file.

    An `error` makes the file unusable; with a `warning` it is used, but not as written; a `note`
    changes nothing.
    """

    file: str  # the path as the user gave it; in a folder, the file's path
    line: int | None  # where the task begins, or the row (Parquet), from 1; None: the file
    field: str | None  # `instruction`, `instances[0].output`, ...; None: the task
    message: str  # what is wrong, without a full stop
    severity: Severity
    fix: str  # an imperative sentence

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        field = "" if self.field is None else f" field `{self.field}`:"
        return f"{where}: {self.severity}:{field} {self.message} ({self.fix})"


class SeedFileError(RefineError):
    """A seed file cannot be used; `problems` holds every finding, warnings and notes included."""

    def __init__(self, source: str, problems: Sequence[SeedProblem]) -> None:
        self.problems = list(problems)
        errors = [problem for problem in self.problems if problem.severity == "error"]
        count = "1 error" if len(errors) == 1 else f"{len(errors)} errors"
        found = few_of_each_kind((error.message, str(error)) for error in errors)
        lines = [f"  {line}" for line in found[:PRINTED]]
        if len(found) > PRINTED:
            lines.append("  ... and others")
        super().__init__(
            "\n".join([f"the seeds cannot be used, {count}", *lines]),
            where=shown(source),
            fix="fix every entry above; `refine-dagster seeds check --all` lists them",
        )


class Findings:
    """Collects the findings of one file."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.found: list[SeedProblem] = []

    @property
    def has_error(self) -> bool:
        return any(problem.severity == "error" for problem in self.found)

    def error(self, line: int | None, field: str | None, message: str, fix: str) -> None:
        self._add(line, field, message, "error", fix)

    def warning(self, line: int | None, field: str | None, message: str, fix: str) -> None:
        self._add(line, field, message, "warning", fix)

    def note(self, line: int | None, field: str | None, message: str, fix: str) -> None:
        self._add(line, field, message, "note", fix)

    def _add(
        self, line: int | None, field: str | None, message: str, severity: Severity, fix: str
    ) -> None:
        self.found.append(SeedProblem(shown(self.file, 1000), line, field, message, severity, fix))


def shown(text: str, limit: int = 200) -> str:
    """`text` for printing: on one line, shortened, and without undecodable characters.

    >>> shown("a\\nb")
    'a\\\\nb'
    """
    safe = text.encode("utf-8", "backslashreplace").decode("utf-8")
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in safe)
    return safe if len(safe) <= limit else f"{safe[: limit - 3]}..."
