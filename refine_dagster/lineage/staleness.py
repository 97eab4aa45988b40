"""Which assets are stale by the ledger, and what each took when it was last made.

An asset is stale if something that it was made from has changed since, or is stale itself. The
ledger knows nothing of config, code and files that changed without a run: for those, and for what a
run would make, see `assets.states`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import duckdb

from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import OUTSIDE, RETIRED

NAMED = 3  # inputs that a reason names


@dataclass(frozen=True)
class Stale:
    """A stale asset.

    Attributes:
        changed: inputs whose content is another than the asset read.
        waits_for: the other inputs that are stale themselves.
    """

    asset: str
    changed: tuple[str, ...]
    waits_for: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """
        >>> Stale("report", ("model", "seeds"), ("dataset",)).label
        'model and seeds changed since'
        """
        if self.changed:
            return f"{_listed(self.changed)} changed since"
        return f"made from stale {_listed(self.waits_for)}"


def _listed(names: Sequence[str]) -> str:
    """
    >>> _listed(["a"]), _listed(["a", "b", "c"]), _listed(["a", "b", "c", "d"])
    ('a', 'a, b and c', 'a, b and 2 more')
    """
    if len(names) > NAMED:
        names = [*names[: NAMED - 1], f"{len(names) - NAMED + 1} more"]
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


@dataclass(frozen=True)
class Cost:
    """What an asset's last materialization that made something took.

    Attributes:
        asked: requests, of which `sent` went to a model and the store answered the others.
    """

    seconds: float
    asked: int
    sent: int


class Staleness:
    """The state of all assets of a warehouse's ledger, read once."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        last = connection.execute(
            "SELECT asset, arg_max(data_version, sequence), max(sequence), "
            "arg_max(code_version, sequence) FROM lineage.materializations GROUP BY asset"
        ).fetchall()
        self._versions = {asset: version for asset, version, _, _ in last}
        self._retired = {asset for asset, _, _, code in last if code == RETIRED}
        self._read: dict[str, dict[str, str]] = {
            asset: {} for asset, *_ in sorted(last, key=lambda record: int(record[2]))
        }
        for asset, name, version in connection.execute(
            "SELECT made.asset, read.asset, read.data_version FROM lineage.inputs AS read "
            "JOIN (SELECT asset, max(sequence) AS sequence FROM lineage.materializations "
            "GROUP BY asset) AS made USING (sequence) ORDER BY ALL"
        ).fetchall():
            if not name.startswith(OUTSIDE):
                self._read[asset][name] = version

    @cached_property
    def assets(self) -> dict[str, Stale]:
        """The stale assets by name, in the order in which they were made."""
        found: dict[str, Stale | None] = {}
        for asset in self._read:
            self._add(asset, found)
        return {asset: state for asset in self._read if (state := found[asset]) is not None}

    def of(self, relation: str) -> list[Stale]:
        """Those that made rows of a table, or made a view or mart."""
        if relation in TABLES:
            base = TABLES[relation].asset
            return [
                state
                for asset, state in self.assets.items()
                if asset == base or asset.startswith(f"{base}_round_")
            ]
        return [self.assets[relation]] if relation in self.assets else []

    def _add(self, asset: str, found: dict[str, Stale | None]) -> None:
        """Find the state of an asset, and before it that of what it was made from."""
        if asset in found:
            return
        read = {} if asset in self._retired else self._read.get(asset, {})
        for name in read:
            self._add(name, found)
        changed = tuple(name for name in read if self._versions.get(name) != read[name])
        waits_for = tuple(name for name in read if name not in changed and found[name])
        found[asset] = Stale(asset, changed, waits_for) if changed or waits_for else None


def last_costs(connection: duckdb.DuckDBPyConnection) -> dict[str, Cost]:
    """Asset -> the cost of its last materialization that changed a row or asked a model."""
    return dict(_costs(connection))


def _costs(connection: duckdb.DuckDBPyConnection) -> Iterator[tuple[str, Cost]]:
    records = connection.execute(
        "SELECT asset, started_at, finished_at, requests_asked, requests_sent "
        "FROM lineage.materializations "
        "WHERE rows_added + rows_removed + requests_asked > 0 AND NOT starts_with(run_id, ?) "
        "QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1",
        [MIGRATION],
    ).fetchall()
    for asset, started, finished, asked, sent in records:
        seconds = (
            datetime.fromisoformat(finished) - datetime.fromisoformat(started)
        ).total_seconds()
        yield asset, Cost(seconds, asked, sent)
