"""Causes: the first things to differ, from which every other changed row follows.

Rows form a graph by their parents. Between two states, a changed row either hangs on changed
parents, and its change follows from theirs, or on none: there change begins. A row without parents,
such as a seed, is then a cause itself. For any other the cause is what its asset read besides: a
config field, a revision of its code, a file. If none of these differs either, the asset's inputs
decided as a whole (a loop that ran longer, a scale over all rows): the causes of their changes are
the row's, as indirect ones. A cause that reaches a row only because a model learnt from it is named
with that model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import duckdb

from refine_dagster.lineage.changes import (
    AssetChange,
    Difference,
    collect,
    compare,
    compared,
    contents,
    link,
)
from refine_dagster.lineage.timeline import Timeline, Window
from refine_dagster.warehouse.sql import literal, literals
from refine_dagster.warehouse.tables import TABLES

Kind = Literal["row", "rows", "config", "code", "file", "first", "unknown"]
SEEDS = "seed_tasks"


@dataclass(frozen=True)
class Cause:
    """Where a change begins.

    Attributes:
        kind: `row` (added, edited or removed), `rows` (many such), `config`, `code`, `file`,
            `first` (the asset was not there on one side) or `unknown` (the ledger has no reason).
        asset: the asset in which it begins.
        name: natural key of a row, name of a config field or file; empty otherwise.
        change: `added`, `edited` or `removed` of a row; `added` or `removed` of an asset that is
            there on one side only; `changed` of anything else.
        old: the columns that differ, or {`value`: ...} of a config field, revision or file hash.
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
            case "config":
                return f"config {self.name}: {self.old['value']} → {self.new['value']}"
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


# Above so many rows of one table with the same kind of change, they are one cause.
MANY = 40
RUN_SEED = "run_seed"
# Tables of models: what they learnt from reaches everything that they write.
MODELS = tuple(name for name, table in TABLES.items() if "checkpoint_hash" in table.columns)


class Causes:
    """The causes of everything that differs between a window's two states.

    Temporary tables hold the answer for SQL, as long as the connection lives: `changed`
    (`changes.collect`) and `reasons` (`node`, `cause`, `through`, `indirect`).

    Attributes:
        known: number of a cause in `reasons` -> the cause.
        assets: asset -> what differs between its two materializations.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, timeline: Timeline, window: Window
    ) -> None:
        self.connection = connection
        self.known: dict[int, Cause] = {}
        collect(connection, "changed", window)
        link(connection, "changed", MODELS)
        self.assets = {
            asset: compare(timeline, asset, window.before[asset], window.after[asset])
            for (asset,) in connection.execute(
                "SELECT DISTINCT asset FROM changed ORDER BY asset"
            ).fetchall()
        }
        connection.execute("CREATE OR REPLACE TEMP TABLE own (node BIGINT, cause BIGINT)")
        self._find_beginnings()
        for place, (asset, change) in enumerate(self.assets.items(), 1):
            self._assign(asset, change, whole=-place)
        self._propagate()

    def of_node(self, node: int) -> tuple[Reason, ...]:
        """The reasons of one changed row, the direct ones first."""
        found = self.connection.execute(
            "SELECT cause, through, indirect FROM reasons WHERE node = ? "
            "ORDER BY indirect, len(through), cause",
            [node],
        ).fetchall()
        return tuple(
            Reason(self.known[cause], tuple(through), indirect)
            for cause, through, indirect in found
        )

    def _find_beginnings(self) -> None:
        """Find changed rows that hang on no changed row, and whether they have parents at all."""
        self.connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE beginnings AS
            SELECT node, asset, parented.node IS NULL AS is_source
            FROM (FROM changed ANTI JOIN links USING (node))
            LEFT JOIN (
                SELECT DISTINCT node FROM ids
                SEMI JOIN lineage.parents AS edge
                  ON edge.row_id = ids.id AND edge.table_name = ids.table_name
            ) AS parented USING (node)
            """
        )

    def _assign(self, asset: str, change: AssetChange, whole: int) -> None:
        """Assign causes to the asset's beginnings; node `whole` stands for its inputs together."""
        everything = f"SELECT node FROM changed WHERE asset = {literal(asset)}"
        if change.is_first:
            made = "added" if change.before is None else "removed"
            self._own(everything, [Cause("first", asset, change=made)])
            self.connection.execute(f"DELETE FROM links WHERE node IN ({everything})")
            return
        code = [_valued("code", asset, change.code)] if change.code else []
        config = [_valued("config", asset, difference) for difference in change.config]
        files = [_valued("file", asset, difference) for difference in change.files]
        chosen = [difference for difference in config if difference.name != RUN_SEED]
        begun = f"SELECT node FROM beginnings WHERE asset = {literal(asset)}"
        if chosen or code:
            self._own(f"{begun} AND is_source", chosen + code)
        else:
            self._own_rows(asset)
        if config or code:
            self._own(f"{begun} AND NOT is_source", config + code)
            self._own(
                f"{everything} AND table_name IN ({literals(MODELS)}) AND node NOT IN ({begun})",
                config + code,
            )
        elif files:
            self._own(f"{begun} AND NOT is_source", files)
        else:
            read = literals(difference.name for difference in change.inputs) or "''"
            self.connection.execute(
                f"""
                INSERT INTO links
                SELECT node, {whole}, '', true FROM ({begun} AND NOT is_source)
                UNION ALL SELECT {whole}, node, '', true FROM changed WHERE asset IN ({read})
                """
            )

    def _own(self, nodes: str, causes: list[Cause]) -> None:
        for cause in causes:
            number = self._number(cause)
            self.connection.execute(f"INSERT INTO own SELECT node, {number} FROM ({nodes})")

    def _own_rows(self, asset: str) -> None:
        """Make each source row of an asset its own cause; very many of one kind are one cause."""
        found = self.connection.execute(
            "SELECT table_name, key, old_id, new_id, node FROM changed "
            "SEMI JOIN (FROM beginnings WHERE is_source AND asset = ?) USING (node) ORDER BY ALL",
            [asset],
        ).fetchall()
        kinds: defaultdict[tuple[str, str], list[tuple[str, str | None, str | None, int]]]
        kinds = defaultdict(list)
        for table, key, old_id, new_id, node in found:
            change = "added" if old_id is None else "removed" if new_id is None else "edited"
            kinds[table, change].append((key, old_id, new_id, node))
        given: list[tuple[int, int]] = []
        for (table, change), rows in kinds.items():
            if len(rows) > MANY:
                number = self._number(Cause("rows", table, change=change, count=len(rows)))
                given += [(node, number) for *_, node in rows]
                continue
            ids = {row_id for _, old_id, new_id, _ in rows for row_id in (old_id, new_id) if row_id}
            payload = contents(self.connection, table, ids)
            for key, old_id, new_id, node in rows:
                old, new = compared(payload.get(old_id or ""), payload.get(new_id or ""))
                cause = Cause("row", table, key, change, old, new, old_id, new_id)
                given.append((node, self._number(cause)))
        if given:
            self.connection.executemany("INSERT INTO own VALUES (?, ?)", given)

    def _number(self, cause: Cause) -> int:
        """The cause's number; a config field that several assets read is one cause."""
        for number, known in self.known.items():
            same = (known.kind, known.name) == (cause.kind, cause.name)
            if cause.kind == "config" and same and (known.old, known.new) == (cause.old, cause.new):
                return number
        self.known[len(self.known) + 1] = cause
        return len(self.known)

    def _propagate(self) -> None:
        """Carry causes from changed rows to the rows that hang on them, until each has one."""
        self.connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE reasons AS
            WITH RECURSIVE reached AS (
                SELECT node, cause, '' AS model, false AS indirect FROM own
                UNION
                SELECT links.node, reached.cause,
                       if(reached.model = '', links.model, reached.model),
                       reached.indirect OR links.indirect
                FROM reached JOIN links ON links.parent = reached.node
            ),
            nearest AS (
                SELECT * FROM reached WHERE node > 0
                QUALIFY indirect = bool_and(indirect) OVER (PARTITION BY node, cause)
            )
            SELECT node, cause, any_value(indirect) AS indirect,
                   if(bool_or(model = ''), [], list(DISTINCT model ORDER BY model)) AS through
            FROM nearest GROUP BY node, cause
            """
        )
        for (asset,) in self.connection.execute(
            "SELECT DISTINCT asset FROM changed ANTI JOIN reasons USING (node) ORDER BY asset"
        ).fetchall():
            number = self._number(Cause("unknown", asset))
            self.connection.execute(
                f"INSERT INTO reasons SELECT node, {number}, true, [] "
                f"FROM changed ANTI JOIN reasons USING (node) WHERE asset = {literal(asset)}"
            )


def _valued(kind: Kind, asset: str, difference: Difference) -> Cause:
    return Cause(
        kind, asset, difference.name, old={"value": difference.old}, new={"value": difference.new}
    )
