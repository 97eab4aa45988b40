"""Rows that differ between two states, old and new version side by side, and what they hang on.

Everything here is one SQL statement for each table, over the rows that changed and nothing else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import duckdb

from refine_dagster.lineage.natural_keys import REFERENCES, key_sql
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.timeline import Window


def collect(connection: duckdb.DuckDBPyConnection, name: str, window: Window) -> None:
    """Make temporary table `name`: every place whose row differs between a window's two states.

    Columns: `node` (a number), `asset`, `table_name`, `key` (natural key), `place` (counts rows
    that share a key, from 1), `old_id` and `new_id` (null where there is no such row).
    """
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sides "
        "(asset VARCHAR, table_name VARCHAR, row_id VARCHAR, is_new BOOLEAN, key VARCHAR)"
    )
    for table in TABLES.values():
        before, after = window.before.get(table.asset, 0), window.after.get(table.asset, 0)
        if before == after:
            continue
        key, join = key_sql(table.name, "one")
        touched = min(before, after)
        connection.execute(
            f"""
            INSERT INTO sides
            SELECT ?, ?, one.row_id, bool_or({_live("one", after)}), any_value({key})
            FROM history.{table.name} AS one {join}
            WHERE one.added_in > {touched} OR one.removed_in > {touched}
            GROUP BY one.row_id
            HAVING bool_or({_live("one", after)}) <> bool_or({_live("one", before)})
            """,
            [table.asset, table.name],
        )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE {name} AS
        WITH placed AS (
            SELECT *, row_number() OVER (
                PARTITION BY table_name, key, is_new ORDER BY row_id
            ) AS place
            FROM sides
        )
        SELECT row_number() OVER (ORDER BY table_name, key, place) AS node,
               any_value(asset) AS asset, table_name, key, place,
               any_value(row_id) FILTER (NOT is_new) AS old_id,
               any_value(row_id) FILTER (is_new) AS new_id
        FROM placed GROUP BY table_name, key, place
        """
    )
    connection.execute("DROP TABLE sides")


def link(connection: duckdb.DuckDBPyConnection, name: str, models: Collection[str]) -> None:
    """Make temporary table `links`: `node` -> `parent`, between the changed rows of table `name`.

    A changed row hangs on a changed parent that its new version has and its old one had not, or the
    other way round. Table `ids` (`node`, `asset`, `table_name`, `id`, `is_new`) lists the ids of
    both as `lineage.parents` has them. Column `model` names the parent's table where it is one of
    `models` and of another asset, and is empty otherwise; `indirect` is false.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE ids AS
        SELECT node, asset, table_name, new_id::UUID AS id, true AS is_new FROM {name}
        WHERE new_id IS NOT NULL
        UNION ALL
        SELECT node, asset, table_name, old_id::UUID, false FROM {name} WHERE old_id IS NOT NULL
        """
    )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE links AS
        WITH hung AS (
            SELECT one.node, above.node AS parent,
                   any_value(if(above.asset <> one.asset, above.table_name, '')) AS through
            FROM ids AS one
            JOIN lineage.parents AS edge
              ON edge.row_id = one.id AND edge.table_name = one.table_name
            JOIN ids AS above
              ON above.id = edge.parent_id AND above.table_name = edge.parent_table
            WHERE one.node <> above.node
            GROUP BY one.node, above.node, above.id
            HAVING count(DISTINCT one.is_new) = 1
               AND any_value(one.is_new) = any_value(above.is_new)
        )
        SELECT DISTINCT node, parent,
               if(through IN (SELECT unnest(?::VARCHAR[])), through, '') AS model,
               false AS indirect
        FROM hung
        """,
        [list(models)],
    )


def contents(
    connection: duckdb.DuckDBPyConnection, table: str, ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Row id -> payload of the rows of a table, live or not; unknown ids are left out."""
    columns = list(TABLES[table].columns)
    found = connection.execute(
        f"SELECT DISTINCT ON (row_id) row_id, {', '.join(columns)} FROM history.{table} "
        "WHERE row_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY row_id, added_in",
        [sorted(ids)],
    ).fetchall()
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in found}


def compared(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is worth showing of two versions of a row: the columns that differ, with their values.

    A row that has one version only is shown whole; columns that name other rows are left out.
    """
    old, new = dict(old or {}), dict(new or {})
    names = [name for name in old | new if name not in REFERENCES]
    if old and new:
        names = [name for name in names if old.get(name) != new.get(name)]
    return (
        {name: old[name] for name in names if name in old},
        {name: new[name] for name in names if name in new},
    )


def _live(source: str, sequence: int) -> str:
    return (
        f"({source}.added_in <= {sequence} "
        f"AND ({source}.removed_in IS NULL OR {source}.removed_in > {sequence}))"
    )
