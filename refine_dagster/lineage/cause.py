"""A cause of change and its way to a row, as commands name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["row", "rows", "knob", "code", "file", "first", "unknown"]
SEEDS = "seed_tasks"


@dataclass(frozen=True)
class Cause:
    """Where a change begins.

    Attributes:
        kind: `row` (added, edited or removed), `rows` (many such), `knob`, `code`, `file`, `first`
            (the asset was not there on one side) or `unknown` (the ledger has no reason).
        asset: the asset in which it begins.
        name: natural key of a row, name of a knob or file; empty otherwise.
        change: `added`, `edited` or `removed` of a row; `added` or `removed` of an asset that is
            there on one side only; `changed` of anything else.
        old: the columns that differ, or {`value`: ...} of a knob, revision or file hash.
        new: the same of the new state.
        old_id: the row replaced or removed; None where there is none.
        new_id: the row added; None where there is none.
        count: how many rows it stands for.
    """

    kind: Kind
    asset: str
    name: str = ""
    change: str = "changed"
    old: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    old_id: str | None = None
    new_id: str | None = None
    count: int = 1

    @property
    def label(self) -> str:
        """A few words that name the cause."""
        match self.kind:
            case "row":
                noun = f"seed {self.name}" if self.asset == SEEDS else f"{self.asset} {self.name}"
                return f"{noun.strip()} {self.change}"
            case "rows":
                noun = "seeds" if self.asset == SEEDS else f"rows of {self.asset}"
                return f"{self.count} {noun} {self.change}"
            case "knob":
                return f"knob {self.name}: {self.old['value']} → {self.new['value']}"
            case "code":
                values = f"revision {self.old['value']} → {self.new['value']}"
                return f"code of {self.asset}: {values}"
            case "file":
                return f"file {self.name} of {self.asset} changed"
            case "first":
                made = "made from nothing" if self.change == "added" else "not made yet"
                return f"{self.asset} {made}"
            case "unknown":
                return f"nothing that the ledger records for {self.asset}"


@dataclass(frozen=True)
class Reason:
    """How a cause reaches a row.

    Attributes:
        cause: where the change begins.
        through: the models that carry it, where no other way leads to the row.
        indirect: whether no chain of parents leads to the row at all.
    """

    cause: Cause
    through: tuple[str, ...]
    indirect: bool

    @property
    def label(self) -> str:
        """The cause in a few words, and its way."""
        return self.cause.label + way(self.through, self.indirect)


def way(through: Sequence[str], indirect: bool) -> str:
    """How causes reach rows, as words after their names."""
    models = f", through {' and '.join(through)}" if through else ""
    return models + (", indirectly" if indirect else "")
