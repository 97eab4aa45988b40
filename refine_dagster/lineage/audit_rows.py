"""Audit of the tables: every row true to its hash, every state true to the ledger.

What an audit finds: broken places in the order they were met, and what was looked at.

Audit of the views and of what the SQL models made.

A model's table is held against the content in its last record. A view has no cells of its own: what
it shows follows from tables that are checked and from its query, and the query is compared.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import duckdb

from refine_dagster.config.policy_round import PolicyRound, split_sql
from refine_dagster.warehouse.content import (
    NO_ROWS,
    content_hash,
    relation_content,
    row_hash_sql,
    slices_in,
)
from refine_dagster.warehouse.database import HERE, beside
from refine_dagster.warehouse.ledger import MIGRATION, read_prunes
from refine_dagster.warehouse.rows import row_id
from refine_dagster.warehouse.schema import declarations_fingerprint, new_schema
from refine_dagster.warehouse.tables import TABLES, round_sql

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
    for owned in slices_in(connection):
        rows = owned.condition if report.deep else f"{owned.condition} AND removed_in IS NULL"
        source = f"FROM history.{owned.table.name} WHERE {rows}"
        count = _rows(connection, f"SELECT count(*) {source}")[0][0]
        unlike = _rows(
            connection,
            f"SELECT row_id {source} AND row_hash <> {row_hash_sql(owned.table)} ORDER BY 1",
        )
        report.broken_each(
            (f"{owned.name} row {row_id}", "its cells do not give the hash kept with it")
            for (row_id,) in unlike
        )
        report.looked_at("rows", count)
        states = last.get(owned.asset, [])
        live = content_hash(connection, owned)
        if states and states[-1][1].get(owned.name, live) != live:
            where = f"materialization {states[-1][0]} of {owned.asset}"
            report.broken(f"table {owned.name}", f"its live rows are not those that {where} left")


def check_history(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Each row came and went with a materialization of its asset that says how many did."""
    prunes = read_prunes(connection)
    pruned = max((prune.sequence for prune in prunes if prune.horizon), default=0)
    for owned in slices_in(connection):
        name, table = owned.name, f"history.{owned.table.name} WHERE {owned.condition}"
        for column, figure, did in (
            ("added_in", "rows_added", "added"),
            ("removed_in", "rows_removed", "removed"),
        ):
            unlike = connection.execute(
                f"""
                SELECT coalesce(counted.sequence, made.sequence), made.{figure}, rows, one
                FROM (
                    SELECT {column} AS sequence, count(*) AS rows, min(row_id) AS one
                    FROM {table} AND {column} IS NOT NULL GROUP BY ALL
                ) AS counted
                FULL JOIN (
                    SELECT sequence, {figure} FROM lineage.materializations WHERE asset = ?
                ) AS made ON made.sequence = counted.sequence
                WHERE made.sequence IS NULL OR (? AND CASE
                    WHEN made.sequence < ? THEN coalesce(rows, 0) > made.{figure}
                    ELSE coalesce(rows, 0) <> made.{figure} END)
                ORDER BY made.sequence NULLS FIRST, counted.sequence
                """,
                [owned.asset, name == owned.asset, pruned],
            ).fetchall()
            report.broken_each(
                (f"{name} row {one}", f"{did} in {sequence}, no materialization of {owned.asset}")
                if told is None
                else (
                    f"table {name}",
                    f"{rows or 0} rows were {did} in materialization {sequence}, which says {told}",
                )
                for sequence, told, rows, one in unlike
            )
        turned = _rows(
            connection,
            f"SELECT row_id FROM {table} AND removed_in <= added_in ORDER BY row_id",
        )
        report.broken_each(
            (f"{name} row {row_id}", "was removed before it was added") for (row_id,) in turned
        )


def check_parents(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """`lineage.parents` holds the parents of all rows, each once, and no others."""
    told_of = {(one.table.name, one.policy_round.number): one for one in slices_in(connection)}
    named = set(_rows(connection, "SELECT DISTINCT table_name, policy_round FROM lineage.parents"))
    parent_table, parent_round = split_sql("parent.asset")
    for table, number in sorted(told_of.keys() | {one for one in named if one[0] in TABLES}):
        kept = (
            "SELECT row_id, parent_table, parent_round, parent_id, role FROM lineage.parents "
            f"WHERE table_name = '{table}' AND policy_round = {number}"
        )
        listed = (
            f"SELECT DISTINCT TRY_CAST(row_id AS UUID), {parent_table}, {parent_round}, "
            "TRY_CAST(parent.row_id AS UUID), parent.role FROM ("
            f"SELECT row_id, unnest(parents) AS parent FROM history.{table} "
            f"WHERE {round_sql(TABLES[table])} = {number})"
        )
        for first, second, what in (
            (listed, kept, "is a parent of the row, and not in lineage.parents"),
            (kept, listed, "is in lineage.parents, and no parent of the row"),
        ):
            unlike = _rows(connection, f"{first} EXCEPT ALL {second} ORDER BY ALL")
            report.broken_each(
                (
                    f"lineage.parents of {PolicyRound(number).name(table)} row {_hex(row_id)}",
                    f"{PolicyRound(above_round).name(above)} row {_hex(parent_id)} ({role}) {what}",
                )
                for row_id, above, above_round, parent_id, role in unlike
            )
    report.broken_each(
        (f"lineage.parents of {name}", "there is no such table")
        for name in sorted({name for name, _ in named} - TABLES.keys())
    )
    edges = _rows(connection, "SELECT count(*) FROM lineage.parents")[0][0]
    report.looked_at("edges", edges)


def check_past_states(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Every materialization's tables, as of then, are what it recorded."""
    horizon = max((prune.horizon for prune in read_prunes(connection)), default=0)
    recorded = _recorded_hashes(connection)
    rewritten = _rewrites(connection)
    pruned = in_old_form = 0
    for owned in slices_in(connection):
        name, rows = owned.name, f"history.{owned.table.name} WHERE {owned.condition}"
        turns = [
            turn
            for (turn,) in _rows(
                connection,
                f"SELECT added_in FROM {rows} UNION "
                f"SELECT removed_in FROM {rows} AND removed_in IS NOT NULL ORDER BY 1",
            )
        ]
        known: dict[int, str] = {}
        for sequence, hashes in recorded.get(owned.asset, []):
            if sequence <= horizon:
                pruned += 1
                continue
            if name not in hashes:
                continue
            if turns and sequence < rewritten.get(name, 0):
                in_old_form += 1
                continue
            # Between two turns nothing came or went: one hash serves for all that lie there.
            turn = bisect_right(turns, sequence)
            if turn not in known:
                known[turn] = content_hash(connection, owned, sequence)
            if known[turn] != hashes[name]:
                report.broken(
                    f"table {name} as of {sequence}",
                    f"its rows are not those that materialization {sequence} left",
                )
            report.looked_at("past states", 1)
    if pruned:
        report.skipped.append(f"{pruned} past states up to materialization {horizon}: pruned")
    if in_old_form:
        report.skipped.append(
            f"{in_old_form} past states recorded before a migration changed how rows are hashed: "
            "their rows were checked one by one"
        )


def check_row_ids(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Live rows are named by their content and their parents."""
    for owned in slices_in(connection):
        columns = ["row_id", *owned.table.columns, "parents"]
        cursor = beside(connection)
        cursor.execute(f"SELECT {', '.join(columns)} FROM {owned.live} ORDER BY row_id")
        while batch := cursor.fetchmany(BATCH):
            rows = [dict(zip(columns, values, strict=True)) for values in batch]
            report.broken_each(
                (f"{owned.name} row {row['row_id']}", "its content and parents do not give its id")
                for row in rows
                if row_id(owned.name, row, row["parents"]) != row["row_id"]
            )
        cursor.close()


def _rewrites(connection: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """Slice -> the last record of a migration that changed the form of its content hash.

    A slice without live rows has one hash in every form, so it may have been changed.
    """
    return {
        name: sequence
        for sequence, tables, before in _rows(
            connection,
            f"""
            SELECT sequence, tables, before FROM (
                SELECT *, lag(tables) OVER (PARTITION BY asset ORDER BY sequence) AS before
                FROM lineage.materializations
            ) WHERE starts_with(run_id, '{MIGRATION}') ORDER BY sequence
            """,
        )
        for name, content in json.loads(tables).items()
        if content == NO_ROWS or content != json.loads(before).get(name)
    }


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
        SELECT sequence, tables, config FROM (
            FROM lineage.materializations
            QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
        ) LEFT JOIN lineage.configs USING (config_hash)
        WHERE regexp_matches(tables, '^\\{"(staging|marts)\\.')
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
        elif kind == "table" and relation_content(connection, relation)[2] != content:
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


@cache
def _declared(
    fingerprint: str, applied: tuple[tuple[int, str], ...]
) -> tuple[dict[str, str], tuple[tuple[int, str], ...]]:
    """Views and migrations of a new warehouse; made once for what the arguments name."""
    with new_schema() as fresh:
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
        "AND schema_name IN ('main', 'lineage') "
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
    with new_schema() as fresh:
        fresh.execute(f"DROP VIEW {name}")
        try:
            fresh.execute(definition)
        except duckdb.Error:
            return definition
        return _views(fresh).get(name)
