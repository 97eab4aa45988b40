"""The order of materializations, and which past states of two assets belong together.

A materialization compares with the one before it of the same asset, and its inputs with what that
one had read. `Window` holds the two states to compare of each asset.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
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

    def reversed(self) -> Window:
        """The same states compared the other way round."""
        return Window(before=self.after, after=self.before)


@dataclass(frozen=True)
class Materialization:
    """One materialization, as far as comparing needs it."""

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
        for made in self.all.values():
            self._of[made.asset].append(made.sequence)
        self._parents = _parent_assets(connection)

    def _translate_rewritten(self) -> None:
        """Name content that migrations stored in another form by its last data version."""
        last: dict[str, str] = {}
        renamed: dict[str, dict[str, str]] = defaultdict(dict)
        for made in self.all.values():
            if made.run_id.startswith(MIGRATION) and tables_of(made.asset):
                former, names = last[made.asset], renamed[made.asset]
                names |= {old: made.data_version for old, new in names.items() if new == former}
                names[former] = made.data_version
            last[made.asset] = made.data_version
        for sequence, made in self.all.items():
            version = renamed[made.asset].get(made.data_version, made.data_version)
            self.all[sequence] = replace(made, data_version=version)
        for read in self.inputs.values():
            for asset, version in read.items():
                read[asset] = renamed[asset].get(version, version)

    def assets(self) -> list[str]:
        """Assets that were ever materialised, in the order of their first materialization."""
        return list(self._of)

    def at(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's last materialization up to and including `sequence`."""
        made = self._of.get(asset, [])
        place = bisect_right(made, sequence)
        return self.all[made[place - 1]] if place else None

    def next(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's first materialization after `sequence`."""
        made = self._of.get(asset, [])
        place = bisect_right(made, sequence)
        return self.all[made[place]] if place < len(made) else None

    def last_change(self, asset: str) -> Materialization:
        """The last materialization of an asset that left other content than the one before it."""
        made = [self.all[sequence] for sequence in self._of[asset]]
        for previous, latest in zip(reversed(made[:-1]), reversed(made[1:]), strict=True):
            if previous.data_version != latest.data_version:
                return latest
        return made[0]

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
        made = self.at(asset, end)
        read = self.inputs[made.sequence] if made else {}
        return [name for name in read if not name.startswith(OUTSIDE)]

    def _upstream(self, asset: str, end: int) -> set[str]:
        found: set[str] = set()
        waiting = [asset]
        while waiting:
            fresh = set(self._sources(waiting.pop(), end)) - found
            found |= fresh
            waiting += fresh
        return found

    def _loops(self, asset: str, end: int) -> set[str]:
        """Assets made from this one whose rows are nevertheless among its rows' parents."""
        found: set[str] = set()
        waiting = [asset]
        while waiting:
            fresh = self._parents[waiting.pop()] - found
            found |= fresh
            waiting += fresh
        return {other for other in found - {asset} if asset in self._upstream(other, end)}


def _parent_assets(connection: duckdb.DuckDBPyConnection) -> defaultdict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for child, parent in connection.execute(
        f"SELECT DISTINCT {name_sql('table_name', 'policy_round')}, "
        f"{name_sql('parent_table', 'parent_round')} FROM lineage.parents"
    ).fetchall():
        found[slice_of(child).asset].add(slice_of(parent).asset)
    return found
