"""What an audit finds: broken places in the order they were met, and what was looked at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

# Broken places of one kind that are listed one by one; the rest is counted.
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
        deep: whether past states and everything registered were looked at as well.
        findings: broken places; the first is the first place that was met.
        warnings: what differs without being a break, such as an export edited afterwards.
        checked: what was looked at -> how many of it.
        skipped: what cannot be told any more, and why.
    """

    deep: bool
    findings: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether nothing is broken."""
        return not self.findings

    def broken(self, place: str, what: str) -> None:
        """Add a broken place."""
        self.findings.append(Finding(place, what))

    def broken_each(self, places: Iterable[tuple[str, str]]) -> None:
        """Add broken places of one kind, the first few by name."""
        found = list(places)
        self.findings += [Finding(place, what) for place, what in found[:LISTED]]
        if len(found) > LISTED:
            place, what = found[LISTED]
            self.broken(place, f"{what}; and so do {len(found) - LISTED - 1} more after it")

    def warned(self, place: str, what: str) -> None:
        """Add a difference that is no break."""
        self.warnings.append(Finding(place, what))

    def looked_at(self, what: str, count: int) -> None:
        """Count what was looked at."""
        self.checked[what] = self.checked.get(what, 0) + count
