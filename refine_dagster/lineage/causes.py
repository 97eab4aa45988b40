"""Causes: the first things to differ, from which every other changed row follows.

Rows form a graph by their parents. Between two states, a changed row either depends on changed
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
from dataclasses import dataclass, field, replace
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
from refine_dagster.warehouse.tables import MODELS

Kind = Literal["row", "rows", "config", "code", "file", "first", "unknown"]
SEEDS = "seed_tasks"


@dataclass(frozen=True)
class Cause:
    """Where a change begins.

    Attributes:
        kind: `row` (added, edited or removed), `rows` (many such), `config`, `code`, `file`,
            `first` (the asset was not there on one side) or `unknown` (the ledger has no reason).
        name: natural key of a row, name of a config field or file; empty otherwise.
        change: `added`, `edited` or `removed` of a row; `added` or `removed` of an asset that is
            there on one side only; `changed` of anything else.
        old, new: the columns that differ, or {`value`: ...} of a config field, revision or file.
        old_id, new_id: the row replaced or removed, and the row added; None where there is none.
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
                revisions = f"{self.old['value']} → {self.new['value']}"
                return f"code of {self.asset}: revision {revisions}"
            case "file":
                return f"file {self.name} of {self.asset} changed"
            case "first":
                state = "made from nothing" if self.change == "added" else "not made yet"
                return f"{self.asset} {state}"
            case "unknown":
                return f"nothing that the ledger records for {self.asset}"


@dataclass(frozen=True)
class Reason:
    """How a cause reaches a row.

    Attributes:
        through: the models that carry it, where no other way leads to the row.
        indirect: whether no chain of parents leads to the row at all.
    """

    cause: Cause
    through: tuple[str, ...]
    indirect: bool

    @property
    def label(self) -> str:
        return self.cause.label + way(self.through, self.indirect)


def way(through: Sequence[str], indirect: bool) -> str:
    """How causes reach rows, as words after their names."""
    models = f", through {' and '.join(through)}" if through else ""
    return models + (", indirectly" if indirect else "")


# Above so many rows of one table with the same kind of change, they are one cause.
MANY = 40
RUN_SEED = "run_seed"


class Causes:
    """The causes of everything that differs between a window's two states.

    Temporary tables hold the answer for SQL, as long as the connection lives: `changed`
    (`changes.collect`) and `reasons` (`node`, `cause`, `through`, `indirect`).

    Attributes:
        known: number of a cause in `reasons` -> the cause.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, timeline: Timeline, window: Window
    ) -> None:
        self.connection = connection
        self.known: dict[int, Cause] = {}
        collect(connection, "changed", window)
        link(connection, "changed")
        connection.execute("CREATE OR REPLACE TEMP TABLE own (node BIGINT, cause BIGINT)")
        self._find_beginnings()
        assets = connection.execute("SELECT DISTINCT asset FROM changed ORDER BY asset").fetchall()
        for number, (asset,) in enumerate(assets, 1):
            change = compare(timeline, asset, window.before[asset], window.after[asset])
            self._assign(asset, change, inputs=-number)
        self._propagate()

    def of_node(self, node: int) -> tuple[Reason, ...]:
        """The reasons of one changed row, the direct ones first."""
        reasons = self.connection.execute(
            "SELECT cause, through, indirect FROM reasons WHERE node = ? "
            "ORDER BY indirect, len(through), cause",
            [node],
        ).fetchall()
        return tuple(
            Reason(self.known[cause], tuple(through), indirect)
            for cause, through, indirect in reasons
        )

    def _find_beginnings(self) -> None:
        """Find changed rows that depend on no changed row, and whether they have parents."""
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

    def _assign(self, asset: str, change: AssetChange, inputs: int) -> None:
        """Assign causes to the asset's beginnings; node `inputs` stands for its inputs together."""
        everything = f"SELECT node FROM changed WHERE asset = {literal(asset)}"
        if change.is_first:
            how = "added" if change.before is None else "removed"
            self._own(everything, [Cause("first", asset, change=how)])
            self.connection.execute(f"DELETE FROM links WHERE node IN ({everything})")
            return
        code = [_valued("code", asset, change.code)] if change.code else []
        config = [_valued("config", asset, field) for field in change.config]
        chosen = [cause for cause in config if cause.name != RUN_SEED]
        beginnings = f"SELECT node FROM beginnings WHERE asset = {literal(asset)}"
        made_from_others = f"{beginnings} AND NOT is_source"
        if chosen or code:
            self._own(f"{beginnings} AND is_source", chosen + code)
        else:
            self._own_rows(asset)
        if config or code:
            models = f"{everything} AND table_name IN ({literals(MODELS)})"
            self._own(made_from_others, config + code)
            self._own(f"{models} AND node NOT IN ({beginnings})", config + code)
        elif change.files:
            self._own(made_from_others, [_valued("file", asset, file) for file in change.files])
        else:
            read = literals(version.name for version in change.inputs) or "''"
            self.connection.execute(
                f"""
                INSERT INTO links
                SELECT node, {inputs}, '', true FROM ({made_from_others})
                UNION ALL SELECT {inputs}, node, '', true FROM changed WHERE asset IN ({read})
                """
            )

    def _own(self, nodes: str, causes: list[Cause]) -> None:
        for cause in causes:
            number = self._number(cause)
            self.connection.execute(f"INSERT INTO own SELECT node, {number} FROM ({nodes})")

    def _own_rows(self, asset: str) -> None:
        """Make each source row of an asset its own cause; very many of one kind are one cause."""
        sources = self.connection.execute(
            "SELECT table_name, key, old_id, new_id, node FROM changed "
            "SEMI JOIN (FROM beginnings WHERE is_source AND asset = ?) USING (node) ORDER BY ALL",
            [asset],
        ).fetchall()
        kinds: defaultdict[tuple[str, str], list[tuple[str, str | None, str | None, int]]]
        kinds = defaultdict(list)
        for table, key, old_id, new_id, node in sources:
            change = "added" if old_id is None else "removed" if new_id is None else "edited"
            kinds[table, change].append((key, old_id, new_id, node))
        own: list[tuple[int, int]] = []
        for (table, change), rows in kinds.items():
            if len(rows) > MANY:
                number = self._number(Cause("rows", table, change=change, count=len(rows)))
                own += [(node, number) for *_, node in rows]
                continue
            ids = {row_id for _, *versions, _ in rows for row_id in versions if row_id}
            payload = contents(self.connection, table, ids)
            for key, old_id, new_id, node in rows:
                old, new = compared(payload.get(old_id or ""), payload.get(new_id or ""))
                cause = Cause("row", table, key, change, old, new, old_id, new_id)
                own.append((node, self._number(cause)))
        if own:
            self.connection.executemany("INSERT INTO own VALUES (?, ?)", own)

    def _number(self, cause: Cause) -> int:
        """The cause's number; a config field that several assets read is one cause."""
        if cause.kind == "config":
            for number, known in self.known.items():
                if replace(known, asset=cause.asset) == cause:
                    return number
        self.known[len(self.known) + 1] = cause
        return len(self.known)

    def _propagate(self) -> None:
        """Carry causes from changed rows to the rows that depend on them, until each has one."""
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


def _valued(kind: Kind, asset: str, differs: Difference) -> Cause:
    return Cause(kind, asset, differs.name, old={"value": differs.old}, new={"value": differs.new})
