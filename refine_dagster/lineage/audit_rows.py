"""Audit of the tables: every row true to its hash, every state true to the ledger."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from typing import Any

import duckdb

from refine_dagster.config.policy_round import PolicyRound, split_sql
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.warehouse.content import NO_ROWS, content_hash, row_hash_sql, slices_in
from refine_dagster.warehouse.database import beside
from refine_dagster.warehouse.ledger import MIGRATION, read_prunes
from refine_dagster.warehouse.rows import row_id
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import TABLES, round_sql

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
        absent = NO_ROWS if owned.table.sparse else live
        if states and states[-1][1].get(owned.name, absent) != live:
            where = f"materialization {states[-1][0]} of {owned.asset}"
            report.broken(f"table {owned.name}", f"its live rows are not those that {where} left")


def check_history(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Each row was added and removed by materializations of its asset that count as many."""
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
                SELECT coalesce(counted.sequence, made.sequence), made.{figure}, rows, first_row
                FROM (
                    SELECT {column} AS sequence, count(*) AS rows, min(row_id) AS first_row
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
                (
                    f"{name} row {row_id}",
                    f"{did} in {sequence}, no materialization of {owned.asset}",
                )
                if recorded is None
                else (
                    f"table {name}",
                    f"{rows or 0} rows were {did} in materialization {sequence}, "
                    f"which says {recorded}",
                )
                for sequence, recorded, rows, row_id in unlike
            )
        reversed_rows = _rows(
            connection, f"SELECT row_id FROM {table} AND removed_in <= added_in ORDER BY row_id"
        )
        report.broken_each(
            (f"{name} row {row_id}", "was removed before it was added")
            for (row_id,) in reversed_rows
        )


def check_parents(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """`lineage.parents` holds the parents of all rows, each once, and no others."""
    slices = {(owned.table.name, owned.policy_round.number) for owned in slices_in(connection)}
    named = set(_rows(connection, "SELECT DISTINCT table_name, policy_round FROM lineage.parents"))
    parent_table, parent_round = split_sql("parent.asset")
    for table, number in sorted(slices | {pair for pair in named if pair[0] in TABLES}):
        kept = (
            "SELECT row_id, parent_table, parent_round, parent_id, role FROM lineage.parents "
            f"WHERE table_name = {literal(table)} AND policy_round = {number}"
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
    report.looked_at("edges", _rows(connection, "SELECT count(*) FROM lineage.parents")[0][0])


def check_past_states(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Every materialization's tables, as of then, are what it recorded."""
    horizon = max((prune.horizon for prune in read_prunes(connection)), default=0)
    recorded = _recorded_hashes(connection)
    rewritten = _rewrites(connection)
    pruned = in_old_form = 0
    for owned in slices_in(connection):
        name, rows = owned.name, f"history.{owned.table.name} WHERE {owned.condition}"
        changes = _rows(
            connection,
            f"SELECT added_in FROM {rows} UNION "
            f"SELECT removed_in FROM {rows} AND removed_in IS NOT NULL ORDER BY 1",
        )
        known: dict[int, str] = {}
        for sequence, hashes in recorded.get(owned.asset, []):
            if sequence <= horizon:
                pruned += 1
            elif name not in hashes:
                continue
            elif changes and sequence < rewritten.get(name, 0):
                in_old_form += 1
            else:
                # Between two changes the rows, and so their hash, stay the same.
                period = bisect_right(changes, (sequence,))
                if period not in known:
                    known[period] = content_hash(connection, owned, sequence)
                if known[period] != hashes[name]:
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
    """The ids of live rows are those of their content and parents."""
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
            ) WHERE starts_with(run_id, {literal(MIGRATION)}) ORDER BY sequence
            """,
        )
        for name, content in json.loads(tables).items()
        if content == NO_ROWS or content != json.loads(before).get(name)
    }


def _recorded_hashes(
    connection: duckdb.DuckDBPyConnection,
) -> dict[str, list[tuple[int, dict[str, str]]]]:
    """asset -> (sequence, table -> content hash) of its materializations, oldest first."""
    recorded: defaultdict[str, list[tuple[int, dict[str, str]]]] = defaultdict(list)
    sql = "SELECT asset, sequence, tables FROM lineage.materializations ORDER BY sequence"
    for asset, sequence, tables in _rows(connection, sql):
        recorded[asset].append((sequence, json.loads(tables)))
    return recorded


def _hex(row_id: object) -> str:
    return str(row_id).replace("-", "")


def _rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return connection.execute(sql).fetchall()
