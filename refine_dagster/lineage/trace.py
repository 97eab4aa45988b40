"""Ancestors or descendants of a row: every row on the way, and the roles that link them.

The walk goes level by level and reads, of the edges, only those of the tables that the level's rows
are in: edges lie sorted by table, so a long chain through one table never scans the others.

"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl

from refine_dagster.errors import RefineError
from refine_dagster.hashing import ID_DIGITS
from refine_dagster.warehouse.sql import literal, literals
from refine_dagster.warehouse.tables import POLICY_ROUND, TABLES
from refine_dagster.warehouse.warehouse import Warehouse

SHORTEST = 6
LISTED_ROWS = 5
LABEL_SHOWN = 200
_HEX = frozenset("0123456789abcdef")


class RowError(RefineError):
    """No row, or more than one, is what was asked for."""


@dataclass(frozen=True)
class RowName:
    """A row, live or removed, of a table and of the asset that commits it there."""

    table: str
    row_id: str
    asset: str


def is_prefix(text: str) -> bool:
    """Whether the text can be the beginning of a row id: 6 to 32 hex digits."""
    return SHORTEST <= len(text) <= ID_DIGITS and set(text.lower()) <= _HEX


def find_row(connection: duckdb.DuckDBPyConnection, text: str) -> RowName:
    """The row, of any table, live or removed, whose id begins with `text`.

    Raises:
        RowError: no row, or more than one, has such an id.
    """
    if not is_prefix(text):
        raise RowError(
            f"{text!r} is no row id",
            fix=f"give the {ID_DIGITS} hex digits of a row_id, or at least its first {SHORTEST}; "
            "`refine-dagster show TABLE` lists them",
        )
    prefix = text.lower()
    # A range and not LIKE: row groups that cannot hold it are then not read. 'g' follows 'f'.
    rows = connection.execute(
        "SELECT DISTINCT table_name, row_id, asset FROM lineage.rows "
        "WHERE row_id >= ? AND row_id < ? ORDER BY ALL LIMIT ?",
        [prefix, prefix + "g", LISTED_ROWS + 1],
    ).fetchall()
    if not rows:
        raise RowError(
            f"no row, live or removed, has an id that begins with {prefix}",
            fix="`refine-dagster show TABLE` lists the ids of live rows",
        )
    if len(rows) > 1:
        listed = "; ".join(f"{table} {row_id}" for table, row_id, _ in rows[:LISTED_ROWS])
        more = " and more" if len(rows) > LISTED_ROWS else ""
        raise RowError(
            f"several rows have ids that begin with {prefix}: {listed}{more}",
            fix="give more digits",
        )
    return RowName(*rows[0])


@dataclass(frozen=True)
class Trace:
    """A row with everything it descends from, or, going down, everything that descends from it.

    Attributes:
        asked: the row asked for; it is the first of `rows`.
        rows: nearest first: `place` (from 0), `table`, `row_id`, `depth` (edges of the shortest
            way), `label`, `note` (the completion behind the row: its role and model), `added_in`
            (null where history no longer has the row), `removed_in` (null of a live row).
        edges: between the rows: `child` and `parent` (places), `role`.
        completion: the row of `store.completions` behind the row asked for; None where there is
            none.
    """

    asked: RowName
    down: bool
    rows: pl.DataFrame
    edges: pl.DataFrame
    completion: dict[str, Any] | None

    @property
    def kin(self) -> str:
        return "descendants" if self.down else "ancestors"


def trace(warehouse: Warehouse, row_id: str, *, down: bool = False) -> Trace:
    """The trace of the row that `find_row` finds."""
    with warehouse.connect() as connection:
        asked = find_row(connection, row_id)
        _walk(connection, asked, down=down)
        rows = _rows(connection)
        edges = connection.sql(
            """
            SELECT child.place AS child, parent.place AS parent, role
            FROM walked_edges AS edge
            JOIN placed AS child ON child.id = edge.row_id
            JOIN placed AS parent ON parent.id = edge.parent_id
            ORDER BY ALL
            """
        ).pl()
        return Trace(asked, down, rows, edges, _completion(connection, asked))


def _walk(connection: duckdb.DuckDBPyConnection, asked: RowName, *, down: bool) -> None:
    """Fill temporary tables: `walked` (each row once, with its depth) and `walked_edges`."""
    near, far_table, far = (
        ("parent_id", "table_name", "row_id") if down else ("row_id", "parent_table", "parent_id")
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE walked AS "
        "SELECT ?::VARCHAR AS table_name, ?::UUID AS id, 0 AS depth",
        [asked.table, asked.row_id],
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE walked_edges AS FROM lineage.parents WITH NO DATA"
    )
    depth = 0
    while True:
        reached = connection.execute(
            "SELECT DISTINCT table_name FROM walked WHERE depth = ? ORDER BY ALL", [depth]
        ).fetchall()
        if not reached:
            return
        here = f"table_name IN ({literals(name for (name,) in reached)})"
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE step AS
            FROM lineage.parents
            WHERE {"true" if down else here}
              AND {near} IN (SELECT id FROM walked WHERE depth = {depth})
            """
        )
        connection.execute("INSERT INTO walked_edges FROM step")
        depth += 1
        connection.execute(
            f"""
            INSERT INTO walked
            SELECT DISTINCT {far_table}, {far}, {depth} FROM step
            WHERE {far} NOT IN (SELECT id FROM walked)
            """
        )


def _rows(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT (row_number() OVER (ORDER BY depth, table_name, id) - 1)::INTEGER AS place,
               table_name, id, replace(id::VARCHAR, '-', '') AS row_id, depth
        FROM walked
        """
    )
    reached = connection.execute("SELECT DISTINCT table_name FROM placed ORDER BY ALL").fetchall()
    # A row that was removed and came back has two entries in history: they are shown as one.
    described = " UNION ALL ".join(
        f"""
        SELECT place, any_value({_label(name)}) AS label, any_value({_key(name)}) AS key,
               min(added_in) AS added_in,
               CASE WHEN count(removed_in) = count(*) THEN max(removed_in) END AS removed_in
        FROM history.{name} JOIN placed USING (row_id) WHERE table_name = {literal(name)}
        GROUP BY place
        """
        for (name,) in reached
        if name in TABLES
    )
    return connection.sql(
        f"""
        SELECT place, table_name AS "table", row_id, depth, left(label, {LABEL_SHOWN}) AS label,
               role || ' by ' || left(model, 12) AS note,
               added_in, removed_in
        FROM placed LEFT JOIN ({described}) USING (place)
        LEFT JOIN store.completions USING (key)
        ORDER BY place
        """
    ).pl()


def _label(table: str) -> str:
    columns = TABLES[table].columns
    label = TABLES[table].label
    if label is None and "instruction" in columns:
        label = "instruction"
    if label is None:
        arm = "arm || ', ' || " if "arm" in columns else ""
        label = f"{arm}'step ' || step" if "step" in columns else "row_id"
    if TABLES[table].rounds_from is None:
        return label
    return f"if({POLICY_ROUND} > 1, 'round ' || {POLICY_ROUND} || ', ', '') || {label}"


def _key(table: str) -> str:
    return "completion_key" if "completion_key" in TABLES[table].columns else "NULL::VARCHAR"


def _completion(connection: duckdb.DuckDBPyConnection, asked: RowName) -> dict[str, Any] | None:
    if asked.table not in TABLES or "completion_key" not in TABLES[asked.table].columns:
        return None
    completions = connection.sql(
        f"""
        SELECT key, role, model, prompt, sampling, seed, text, finish_reason
        FROM store.completions
        WHERE key IN (SELECT completion_key FROM history.{asked.table} WHERE row_id = ?)
        """,
        params=[asked.row_id],
    ).pl()
    if completions.is_empty():
        return None
    completion = completions.row(0, named=True)
    served = connection.sql(
        """
        SELECT url, software, version, served.model, fingerprint, api, repeats, problem
        FROM store.answers JOIN store.servers AS served USING (server) WHERE key = ?
        """,
        params=[completion["key"]],
    ).pl()
    by_server = {} if served.is_empty() else {"server": served.row(0, named=True)}
    return {**completion, "sampling": json.loads(completion["sampling"]), **by_server}
