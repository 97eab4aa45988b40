"""What an audit found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# Broken places of one kind that are listed; the rest is counted.
LISTED = 10


@dataclass(frozen=True)
class Finding:
    """A broken place and what is wrong there."""

    place: str
    what: str


@dataclass
class AuditReport:
    """The outcome of an audit.

    Attributes:
        warnings: differences that are no breaks, such as an export edited afterwards.
        checked: kind -> how many were looked at.
        skipped: what can no longer be checked, and why.
    """

    deep: bool
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return not self.findings

    def broken(self, place: str, what: str) -> None:
        self.findings.append(Finding(place, what))

    def broken_each(self, places: Iterable[tuple[str, str]]) -> None:
        """Add broken places of one kind, the first few by name."""
        broken = [Finding(place, what) for place, what in places]
        self.findings += broken[:LISTED]
        if len(broken) > LISTED:
            first, more = broken[LISTED], len(broken) - LISTED - 1
            self.broken(first.place, f"{first.what}; and so do {more} more after it")

    def warned(self, place: str, what: str) -> None:
        self.warnings.append(Finding(place, what))

    def looked_at(self, what: str, count: int) -> None:
        self.checked[what] = self.checked.get(what, 0) + count
