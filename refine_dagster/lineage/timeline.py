"""The order of materializations, and which past states of two assets belong together.

A materialization compares with the one before it of the same asset, and its inputs with what that
one had read. `Window` holds the two states to compare of each asset.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import duckdb

from refine_dagster.config.policy_round import name_sql
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import slice_of, tables_of
from refine_dagster.warehouse.warehouse import OUTSIDE


@dataclass(frozen=True)
class Window:
    """Asset -> the sequence numbers whose states are compared; 0 is before anything was made."""

    before: Mapping[str, int]
    after: Mapping[str, int]


@dataclass(frozen=True)
class Materialization:
    sequence: int
    asset: str
    run_id: str
    data_version: str
    code_version: str
    config_hash: str
    finished_at: str


class Timeline:
    """All materializations of a warehouse, by sequence number."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.all: dict[int, Materialization] = {
            row[0]: Materialization(*row)
            for row in connection.execute(
                "SELECT sequence, asset, run_id, data_version, code_version, config_hash, "
                "finished_at FROM lineage.materializations ORDER BY sequence"
            ).fetchall()
        }
        self.inputs: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for sequence, asset, version in connection.execute(
            "SELECT sequence, asset, data_version FROM lineage.inputs ORDER BY ALL"
        ).fetchall():
            self.inputs[sequence][asset] = version
        self._translate_rewritten()
        self.configs: dict[str, dict[str, Any]] = {
            name: json.loads(config)
            for name, config in connection.execute("SELECT * FROM lineage.configs").fetchall()
        }
        self._of: defaultdict[str, list[int]] = defaultdict(list)
        for materialization in self.all.values():
            self._of[materialization.asset].append(materialization.sequence)
        self._parents: defaultdict[str, set[str]] = defaultdict(set)
        for child, parent in connection.execute(
            f"SELECT DISTINCT {name_sql('table_name', 'policy_round')}, "
            f"{name_sql('parent_table', 'parent_round')} FROM lineage.parents"
        ).fetchall():
            self._parents[slice_of(child).asset].add(slice_of(parent).asset)

    def _translate_rewritten(self) -> None:
        """Name content that migrations stored in another form by its last data version."""
        last: dict[str, str] = {}
        renamed: dict[str, dict[str, str]] = defaultdict(dict)
        for record in self.all.values():
            if record.run_id.startswith(MIGRATION) and tables_of(record.asset):
                former, names = last[record.asset], renamed[record.asset]
                names |= {old: record.data_version for old, new in names.items() if new == former}
                names[former] = record.data_version
            last[record.asset] = record.data_version
        for sequence, record in self.all.items():
            version = renamed[record.asset].get(record.data_version, record.data_version)
            self.all[sequence] = replace(record, data_version=version)
        for read in self.inputs.values():
            for asset, version in read.items():
                read[asset] = renamed[asset].get(version, version)

    def assets(self) -> list[str]:
        """Assets that were ever materialised, in the order of their first materialization."""
        return list(self._of)

    def at(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's last materialization up to and including `sequence`."""
        sequences = self._of.get(asset, [])
        index = bisect_right(sequences, sequence)
        return self.all[sequences[index - 1]] if index else None

    def next(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's first materialization after `sequence`."""
        sequences = self._of.get(asset, [])
        index = bisect_right(sequences, sequence)
        return self.all[sequences[index]] if index < len(sequences) else None

    def last_change(self, asset: str) -> Materialization:
        """The last materialization of an asset that left other content than the one before it."""
        newest_first = [self.all[sequence] for sequence in reversed(self._of[asset])]
        for materialization, previous in pairwise(newest_first):
            if materialization.data_version != previous.data_version:
                return materialization
        return newest_first[-1]

    def window_of(self, sequence: int) -> Window:
        """What a materialization saw, against what the asset's previous one saw."""
        asset = self.all[sequence].asset
        previous = self.at(asset, sequence - 1)
        start = previous.sequence if previous else 0
        return self._with_sources({asset: start}, {asset: sequence}, sequence)

    def window_between(self, before: int, after: int) -> Window:
        """The states after two materializations, the earlier one first, sources included.

        An asset that was materialised in between compares with what it had read before, which may
        be older than `before`.
        """
        assets = self.assets()
        return self._with_sources(
            dict.fromkeys(assets, before), dict.fromkeys(assets, after), after
        )

    def _with_sources(self, before: dict[str, int], after: dict[str, int], end: int) -> Window:
        waiting = list(before)
        while waiting:
            asset = waiting.pop()
            start = self._changed_since(asset, before[asset], after[asset])
            for source in self._sources(asset, end) if start else ():
                if source in before and not self._differs(source, start, before[source]):
                    continue
                before[source] = min(before.get(source, end), start)
                after.setdefault(source, end)
                waiting.append(source)
        for asset in list(before):
            start = self._changed_since(asset, before[asset], after[asset])
            for loop in self._loops(asset, end) if start else ():
                self._add_loop(asset, loop, start, before, after)
        return Window(before, after)

    def _add_loop(
        self, asset: str, loop: str, start: int, before: dict[str, int], after: dict[str, int]
    ) -> None:
        """Rows of a later asset that the rows name as parents: those made right after them."""
        now = self.at(asset, after[asset])
        last = now.sequence if now else start
        first = self.next(loop, start)
        if first is None or first.sequence > last:
            first = self.at(loop, last)
        following = self.next(loop, last)
        before[loop] = max(before.get(loop, 0), first.sequence if first else 0)
        after[loop] = max(after.get(loop, 0), following.sequence if following else last)

    def _changed_since(self, asset: str, before: int, after: int) -> int:
        """Sequence that made the state before; 0 if there was none or it has not changed."""
        old, new = self.at(asset, before), self.at(asset, after)
        if old is None or new is None or old.data_version == new.data_version:
            return 0
        return old.sequence

    def _differs(self, asset: str, sequence: int, later: int) -> bool:
        """Whether the asset changed between two sequence numbers, the smaller first."""
        if later <= sequence:
            return False
        old, new = self.at(asset, sequence), self.at(asset, later)
        return (old and old.data_version) != (new and new.data_version)

    def _sources(self, asset: str, end: int) -> list[str]:
        materialization = self.at(asset, end)
        read = self.inputs[materialization.sequence] if materialization else {}
        return [name for name in read if not name.startswith(OUTSIDE)]

    def _loops(self, asset: str, end: int) -> set[str]:
        """Assets made from this one whose rows are nevertheless among its rows' parents."""
        parents = _reachable(asset, lambda name: self._parents[name])
        return {
            parent
            for parent in parents - {asset}
            if asset in _reachable(parent, lambda name: self._sources(name, end))
        }


def _reachable(start: str, following: Callable[[str], Iterable[str]]) -> set[str]:
    """Everything reached from `start` in one step or more."""
    reached: set[str] = set()
    waiting = [start]
    while waiting:
        new = set(following(waiting.pop())) - reached
        reached |= new
        waiting += new
    return reached
