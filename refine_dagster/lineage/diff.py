"""What differs between two states of the warehouse, table by table and cause by cause."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from refine_dagster.lineage.causes import Cause, Causes, way
from refine_dagster.lineage.changes import collect, compared, contents
from refine_dagster.lineage.timeline import Timeline, Window
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import REFERENCES, TABLES
from refine_dagster.warehouse.warehouse import Warehouse, require_as_of


@dataclass(frozen=True)
class CauseNumber:
    """A `causes.Reason`, with the number of its cause in `StateDifference.causes`."""

    number: int
    through: tuple[str, ...]
    indirect: bool


@dataclass(frozen=True)
class Group:
    """Rows of one table that changed for the same reasons.

    `lineage_only` counts changed rows with the same content and other ancestors.
    """

    table: str
    reasons: tuple[CauseNumber, ...]
    added: int
    removed: int
    changed: int
    lineage_only: int


@dataclass(frozen=True)
class RowDifference:
    """One natural key of a table: its row in either state, and the columns that differ.

    `old` or `new` is the whole content of a row that is there in one state only.
    """

    key: str
    old_id: str | None
    new_id: str | None
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    reasons: tuple[CauseNumber, ...]


@dataclass(frozen=True)
class StateDifference:
    """The states after two materializations compared.

    Attributes:
        before, after: sequence numbers; the later one may come first.
        groups: by table, in the order in which tables are declared, the largest first.
        causes: number -> cause.
        rows: the rows of the table asked for, by natural key; None if none was asked for.
        rows_total: how many there are without the limit.
    """

    before: int
    after: int
    groups: tuple[Group, ...]
    causes: Mapping[int, Cause]
    rows: tuple[RowDifference, ...] | None = None
    rows_total: int = 0

    def label(self, reasons: Sequence[CauseNumber]) -> str:
        """Reasons in a few words, those that take the same way together."""
        ways: defaultdict[str, list[str]] = defaultdict(list)
        for reason in reasons:
            ways[way(reason.through, reason.indirect)].append(self.causes[reason.number].label)
        named = "; ".join(", ".join(labels) + how for how, labels in ways.items())
        return named or "nothing that the ledger records"


def difference(
    warehouse: Warehouse, before: int, after: int, *, table: str | None = None, limit: int = 20
) -> StateDifference:
    """Compare the states after two materializations, in either order.

    Args:
        table: also list the rows of this table that differ, `limit` of them.

    Raises:
        WarehouseError: a number is out of range, rows of that time were pruned, or there is no
            such table.
    """
    if table is not None and table not in TABLES:
        raise WarehouseError(f"table {table!r} has no history", fix=f"one of {', '.join(TABLES)}")
    with warehouse.connect() as connection:
        for sequence in (before, after):
            require_as_of(connection, sequence)
        timeline = Timeline(connection)
        window = timeline.window_between(min(before, after), max(before, after))
        if before > after:
            window = Window(before=window.after, after=window.before)
        traced = Causes(connection, timeline, window)
        assets = timeline.assets()
        shown = Window(dict.fromkeys(assets, before), dict.fromkeys(assets, after))
        if shown == window:
            connection.execute("CREATE OR REPLACE TEMP VIEW shown AS FROM changed")
        else:
            collect(connection, "shown", shown)
        _explain_shown(connection)
        groups = _groups(connection)
        rows, total = _rows(connection, table, limit) if table else (None, 0)
    numbers = {reason.number for group in groups for reason in group.reasons}
    causes = {number: cause for number, cause in traced.known.items() if number in numbers}
    return StateDifference(before, after, groups, causes, rows, total)


def _explain_shown(connection: duckdb.DuckDBPyConnection) -> None:
    """Make temporary table `explained`: the rows shown, each with its causes."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE same_content "
        "(table_name VARCHAR, old_id VARCHAR, new_id VARCHAR)"
    )
    for (table,) in connection.execute(
        "SELECT DISTINCT table_name FROM shown WHERE old_id IS NOT NULL AND new_id IS NOT NULL"
    ).fetchall():
        columns = ", ".join(c for c in TABLES[table].columns if c not in REFERENCES)
        connection.execute(
            f"""
            INSERT INTO same_content
            SELECT DISTINCT {literal(table)}, old_id, new_id
            FROM shown
            JOIN (SELECT row_id, row({columns}) AS content FROM history.{table}) AS before
              ON before.row_id = shown.old_id
            JOIN (SELECT row_id, row({columns}) AS content FROM history.{table}) AS after
              ON after.row_id = shown.new_id
            WHERE table_name = {literal(table)}
              AND before.content IS NOT DISTINCT FROM after.content
            """
        )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE explained AS
        WITH reasoned AS (
            SELECT node, list(row(cause, through, indirect) ORDER BY cause) AS reasons
            FROM reasons GROUP BY node
        )
        SELECT shown.table_name, shown.key, shown.old_id, shown.new_id,
               coalesce(reasoned.reasons, []) AS reasons,
               same.old_id IS NOT NULL AS lineage_only
        FROM shown
        LEFT JOIN changed ON (changed.table_name, changed.key, changed.place)
                           = (shown.table_name, shown.key, shown.place)
        LEFT JOIN reasoned ON reasoned.node = changed.node
        LEFT JOIN same_content AS same
          ON (same.table_name, same.old_id, same.new_id)
           = (shown.table_name, shown.old_id, shown.new_id)
        """
    )


def _groups(connection: duckdb.DuckDBPyConnection) -> tuple[Group, ...]:
    rows = connection.execute(
        """
        SELECT table_name, reasons,
               count(*) FILTER (old_id IS NULL), count(*) FILTER (new_id IS NULL),
               count(*) FILTER (old_id IS NOT NULL AND new_id IS NOT NULL),
               count(*) FILTER (lineage_only)
        FROM explained GROUP BY table_name, reasons
        ORDER BY table_name, count(*) DESC, reasons
        """
    ).fetchall()
    groups = [Group(table, _numbered(reasons), *counts) for table, reasons, *counts in rows]
    order = list(TABLES)
    return tuple(sorted(groups, key=lambda group: order.index(group.table)))


def _rows(
    connection: duckdb.DuckDBPyConnection, table: str, limit: int
) -> tuple[tuple[RowDifference, ...], int]:
    total = connection.execute(
        "SELECT count(*) FROM explained WHERE table_name = ?", [table]
    ).fetchall()[0][0]
    explained = connection.execute(
        "SELECT key, old_id, new_id, reasons FROM explained WHERE table_name = ? "
        "ORDER BY key, new_id, old_id LIMIT ?",
        [table, limit],
    ).fetchall()
    ids = {row_id for _, *versions, _ in explained for row_id in versions if row_id}
    payload = contents(connection, table, ids)
    rows = []
    for key, old_id, new_id, reasons in explained:
        old, new = compared(payload.get(old_id), payload.get(new_id))
        rows.append(RowDifference(key, old_id, new_id, old, new, _numbered(reasons)))
    return tuple(rows), total


def _numbered(reasons: Sequence[tuple[int, Sequence[str], bool]]) -> tuple[CauseNumber, ...]:
    return tuple(
        CauseNumber(cause, tuple(through), indirect) for cause, through, indirect in reasons
    )
