"""Audit of the tables: every row true to its hash, every state true to the ledger.

What an audit finds: broken places in the order they were met, and what was looked at.

Audit of the views and of what the SQL models made.

A model's table is held against the content in its last record. A view has no cells of its own: what
it shows follows from tables that are checked and from its query, and the query is compared.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from refine_dagster.hashing import content_id
from refine_dagster.warehouse.database import HERE, beside
from refine_dagster.warehouse.ledger import content_of, read_prunes
from refine_dagster.warehouse.schema import declarations_fingerprint, migrate
from refine_dagster.warehouse.tables import TABLES, Table
from refine_dagster.warehouse.warehouse import content_hash, row_hash_sql

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


# Rows named from their content at a time.
BATCH = 10_000


def check_tables(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Rows give their hashes, and the live ones are those of the last materialization."""
    last = _recorded_hashes(connection)
    later = _later_columns(connection)
    for name, table in _told_of(connection).items():
        rows = "true" if report.deep else "removed_in IS NULL"
        count = _rows(connection, f"SELECT count(*) FROM history.{name} WHERE {rows}")[0][0]
        hashes = " AND ".join(
            f"row_hash <> (CASE WHEN {absent} THEN {row_hash_sql(names)} ELSE '' END)"
            for names, absent in _shapes(table, later[name])
        )
        unlike = _rows(
            connection, f"SELECT row_id FROM history.{name} WHERE {rows} AND {hashes} ORDER BY 1"
        )
        report.broken_each(
            (f"{name} row {row_id}", "its cells do not give the hash kept with it")
            for (row_id,) in unlike
        )
        report.looked_at("rows", count)
        states = last.get(table.asset, [])
        live = content_hash(connection, name)
        if states and states[-1][1].get(name, live) != live:
            where = f"materialization {states[-1][0]} of {table.asset}"
            report.broken(f"table {name}", f"its live rows are not those that {where} left")


def check_history(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Each row came and went with a materialization of its asset that says how many did."""
    prunes = read_prunes(connection)
    pruned = max((prune.sequence for prune in prunes if prune.horizon), default=0)
    for name, table in _told_of(connection).items():
        for column, figure, did in (
            ("added_in", "rows_added", "added"),
            ("removed_in", "rows_removed", "removed"),
        ):
            unlike = connection.execute(
                f"""
                SELECT coalesce(counted.sequence, made.sequence), made.{figure}, rows, one
                FROM (
                    SELECT {column} AS sequence, count(*) AS rows, min(row_id) AS one
                    FROM history.{name} WHERE {column} IS NOT NULL GROUP BY ALL
                ) AS counted
                FULL JOIN (
                    SELECT sequence, {figure} FROM lineage.materializations WHERE asset = ?
                ) AS made ON made.sequence = counted.sequence
                WHERE made.sequence IS NULL OR (? AND CASE
                    WHEN made.sequence < ? THEN coalesce(rows, 0) > made.{figure}
                    ELSE coalesce(rows, 0) <> made.{figure} END)
                ORDER BY made.sequence NULLS FIRST, counted.sequence
                """,
                [table.asset, name == table.asset, pruned],
            ).fetchall()
            report.broken_each(
                (f"{name} row {one}", f"{did} in {sequence}, no materialization of {table.asset}")
                if told is None
                else (
                    f"table {name}",
                    f"{rows or 0} rows were {did} in materialization {sequence}, which says {told}",
                )
                for sequence, told, rows, one in unlike
            )
        turned = _rows(
            connection,
            f"SELECT row_id FROM history.{name} WHERE removed_in <= added_in ORDER BY row_id",
        )
        report.broken_each(
            (f"{name} row {row_id}", "was removed before it was added") for (row_id,) in turned
        )


def check_parents(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """`lineage.parents` holds the parents of all rows, each once, and no others."""
    told_of = _told_of(connection)
    named = {
        name for (name,) in _rows(connection, "SELECT DISTINCT table_name FROM lineage.parents")
    }
    for name in TABLES:
        if name not in told_of and name not in named:
            continue
        kept = (
            "SELECT row_id, parent_table, parent_id, role FROM lineage.parents "
            f"WHERE table_name = '{name}'"
        )
        listed = (
            "SELECT DISTINCT TRY_CAST(row_id AS UUID), parent.asset, "
            "TRY_CAST(parent.row_id AS UUID), parent.role FROM ("
            f"SELECT row_id, unnest(parents) AS parent FROM history.{name})"
        )
        for first, second, what in (
            (listed, kept, "is a parent of the row, and not in lineage.parents"),
            (kept, listed, "is in lineage.parents, and no parent of the row"),
        ):
            unlike = _rows(connection, f"{first} EXCEPT ALL {second} ORDER BY ALL")
            report.broken_each(
                (
                    f"lineage.parents of {name} row {_hex(row_id)}",
                    f"{parent_table} row {_hex(parent_id)} ({role}) {what}",
                )
                for row_id, parent_table, parent_id, role in unlike
            )
    report.broken_each(
        (f"lineage.parents of {name}", "there is no such table")
        for name in sorted(named - TABLES.keys())
    )
    edges = _rows(connection, "SELECT count(*) FROM lineage.parents")[0][0]
    report.looked_at("edges", edges)


def check_past_states(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Every materialization's tables, as of then, are what it recorded."""
    horizon = max((prune.horizon for prune in read_prunes(connection)), default=0)
    recorded = _recorded_hashes(connection)
    pruned = 0
    for name, table in TABLES.items():
        turns = [
            turn
            for (turn,) in _rows(
                connection,
                f"SELECT added_in FROM history.{name} UNION "
                f"SELECT removed_in FROM history.{name} WHERE removed_in IS NOT NULL ORDER BY 1",
            )
        ]
        known: dict[int, str] = {}
        for sequence, hashes in recorded.get(table.asset, []):
            if sequence <= horizon:
                pruned += 1
                continue
            if name not in hashes:
                continue
            # Between two turns nothing came or went: one hash serves for all that lie there.
            turn = bisect_right(turns, sequence)
            if turn not in known:
                known[turn] = content_hash(connection, name, sequence)
            if known[turn] != hashes[name]:
                report.broken(
                    f"table {name} as of {sequence}",
                    f"its rows are not those that materialization {sequence} left",
                )
            report.looked_at("past states", 1)
    if pruned:
        report.skipped.append(f"{pruned} past states up to materialization {horizon}: pruned")


def check_row_ids(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Live rows are named by their content and their parents."""
    later = _later_columns(connection)
    for name, table in TABLES.items():
        columns = ["row_id", *table.columns, "parents"]
        cursor = beside(connection)
        cursor.execute(
            f"SELECT {', '.join(columns)} FROM history.{name} WHERE removed_in IS NULL "
            "ORDER BY row_id"
        )
        while batch := cursor.fetchmany(BATCH):
            rows = [dict(zip(columns, values, strict=True)) for values in batch]
            report.broken_each(
                (f"{name} row {row['row_id']}", "its content and parents do not give its id")
                for row in rows
                if all(
                    content_id(name, payload, row["parents"]) != row["row_id"]
                    for payload in _payloads(table, row, later[name])
                )
            )
        cursor.close()


def _told_of(connection: duckdb.DuckDBPyConnection) -> dict[str, Table]:
    """The tables that have rows or a materialization; of the others nothing is said."""
    rows = " UNION ALL ".join(
        f"SELECT '{name}' WHERE EXISTS (FROM history.{name})" for name in TABLES
    )
    filled = {name for (name,) in _rows(connection, rows)}
    made = {
        asset
        for (asset,) in _rows(connection, "SELECT DISTINCT asset FROM lineage.materializations")
    }
    return {name: table for name, table in TABLES.items() if name in filled or table.asset in made}


def _payloads(table: Table, row: dict[str, Any], later: list[str]) -> Iterator[dict[str, Any]]:
    """The payloads that a row may have been named by, the likeliest first.

    A column that was declared after the row was made is null and was no part of it.
    """
    payload = {name: row[name] for name in table.columns}
    for known in range(len(later), -1, -1):
        absent = later[known:]
        if any(row[name] is not None for name in absent):
            return
        yield {name: value for name, value in payload.items() if name not in absent}


def _shapes(table: Table, later: list[str]) -> list[tuple[list[str], str]]:
    """The columns that a row's hash may cover, and the SQL that says when: the newest shape first.

    A column declared later is added behind `removed_in`, and is null in the rows that were there.
    """
    shapes = []
    for known in range(len(later), -1, -1):
        absent = later[known:]
        names = [name for name in table.columns if name not in absent]
        condition = " AND ".join(f"{name} IS NULL" for name in absent) or "true"
        shapes.append((["row_id", *names, "parents"], condition))
    return shapes


def _later_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    """Table -> its payload columns that were declared after it was made, oldest first."""
    physical: dict[str, list[str]] = {}
    for table, column in _rows(
        connection,
        "SELECT table_name, column_name FROM duckdb_columns() "
        f"WHERE {HERE} AND schema_name = 'history' "
        "ORDER BY table_name, column_index",
    ):
        physical.setdefault(table, []).append(column)
    return {name: physical[name][physical[name].index("removed_in") + 1 :] for name in TABLES}


def _recorded_hashes(
    connection: duckdb.DuckDBPyConnection,
) -> dict[str, list[tuple[int, dict[str, str]]]]:
    """asset -> (sequence, table -> content hash) of its materializations, oldest first."""
    found: dict[str, list[tuple[int, dict[str, str]]]] = {}
    for asset, sequence, tables in _rows(
        connection, "SELECT asset, sequence, tables FROM lineage.materializations ORDER BY sequence"
    ):
        found.setdefault(asset, []).append((sequence, json.loads(tables)))
    return found


def _hex(row_id: object) -> str:
    return str(row_id).replace("-", "")


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()


MODEL_SCHEMAS = "('staging', 'marts')"
APPLIED = "SELECT version, name FROM main.schema_migrations ORDER BY version"


def check_models(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """The models' tables and views are those that were recorded."""
    standing = _standing(connection)
    records = connection.execute(
        """
        SELECT sequence, tables, config
        FROM lineage.materializations LEFT JOIN lineage.configs USING (config_hash)
        WHERE regexp_matches(tables, '^\\{"(staging|marts)\\.')
        QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
        ORDER BY sequence
        """
    ).fetchall()
    recorded = set()
    for sequence, tables, config in records:
        ((relation, content),) = json.loads(tables).items()
        model = json.loads(config or "{}")
        recorded.add(relation)
        report.looked_at("SQL models", 1)
        kind, definition = standing.get(relation, ("nothing", ""))
        if kind != model.get("materialized"):
            report.broken(
                relation,
                f"materialization {sequence} made a {model.get('materialized')}, here is {kind}",
            )
        elif kind == "table" and content_of(connection, relation)[2] != content:
            report.broken(relation, f"its cells are not those that materialization {sequence} made")
        elif kind == "view" and definition != _definition(connection, model["query"]):
            report.broken(
                relation, f"its query is not the one that materialization {sequence} recorded"
            )
    report.broken_each(
        (relation, "no materialization made it") for relation in sorted(standing.keys() - recorded)
    )


def check_schema(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """The live views and those of the lineage are as a new warehouse has them."""
    known = tuple(connection.execute(APPLIED).fetchall())
    declared, migrations = _declared(declarations_fingerprint(), known)
    found = _views(connection)
    for name, definition in declared.items():
        if found.get(name) == definition:
            continue
        # A database made by another DuckDB may write the same query otherwise.
        again = _written_anew(name, found.get(name))
        if again != definition:
            report.broken(f"view {name}", "is not as declared" if again else "is missing")
    report.looked_at("views", len(declared))
    if known != migrations:
        report.broken("main.schema_migrations", "are not the migrations of this version")


@contextmanager
def _new_warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect(":memory:") as fresh:
        migrate(fresh, Path(":memory:"))
        yield fresh


@cache
def _declared(
    fingerprint: str, applied: tuple[tuple[int, str], ...]
) -> tuple[dict[str, str], tuple[tuple[int, str], ...]]:
    """Views and migrations of a new warehouse; made once for what the arguments name."""
    with _new_warehouse() as fresh:
        return _views(fresh), tuple(fresh.execute(APPLIED).fetchall())


def _standing(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str]]:
    """Relation -> (`view` or `table`, query) of everything in the models' schemas."""
    found = connection.execute(
        "SELECT schema_name || '.' || view_name, 'view', sql FROM duckdb_views() "
        f"WHERE {HERE} AND schema_name IN {MODEL_SCHEMAS} UNION ALL "
        "SELECT schema_name || '.' || table_name, 'table', '' FROM duckdb_tables() "
        f"WHERE {HERE} AND schema_name IN {MODEL_SCHEMAS}"
    ).fetchall()
    return {relation: (kind, sql.partition(" AS ")[2]) for relation, kind, sql in found}


def _definition(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """A query as DuckDB writes that of a view."""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW audited AS {query}")
    found = connection.execute(
        "SELECT sql FROM duckdb_views() WHERE temporary AND view_name = 'audited'"
    ).fetchall()
    connection.execute("DROP VIEW temp.audited")
    return str(found[0][0]).partition(" AS ")[2]


def _views(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Name -> text of every view and macro besides those of the models."""
    found = connection.execute(
        "SELECT schema_name || '.' || view_name, sql FROM duckdb_views() "
        f"WHERE {HERE} AND NOT internal AND NOT temporary "
        "AND schema_name IN ('main', 'rounds', 'lineage') "
        "ORDER BY 1"
    ).fetchall()
    macros = connection.execute(
        "SELECT schema_name || '.' || function_name, macro_definition FROM duckdb_functions() "
        f"WHERE {HERE} AND NOT internal AND schema_name IN ('main', 'lineage') "
        "AND function_type IN ('macro', 'table_macro') ORDER BY 1"
    ).fetchall()
    return dict([*found, *macros])


def _written_anew(name: str, definition: str | None) -> str | None:
    """A view's text as this DuckDB writes it; None where there is no view."""
    if definition is None or not definition.startswith("CREATE VIEW"):
        return definition
    with _new_warehouse() as fresh:
        fresh.execute(f"DROP VIEW {name}")
        try:
            fresh.execute(definition)
        except duckdb.Error:
            return definition
        return _views(fresh).get(name)
