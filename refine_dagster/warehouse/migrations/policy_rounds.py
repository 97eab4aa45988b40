"""Migration 3: the tables of later policy rounds join those of the first.

There were tables `<table>_round_2` and `<table>_round_3` beside `<table>`, and a schema `rounds` of
views over them. Now one table holds the rows of all rounds, with a column `policy_round`.
Row ids, row hashes, content hashes and data versions stay: a slice has the name of its old table.
"""

from __future__ import annotations

import re

import duckdb

from refine_dagster.warehouse.rewrites import drop_models_of

_LATER = re.compile(r"(?P<base>\w+)_round_(?P<number>\d+)")


def merge_policy_rounds(connection: duckdb.DuckDBPyConnection) -> None:
    """Merge the tables, and drop the views of SQL models that read them."""
    tables = _history_tables(connection)
    later = sorted(
        (int(found["number"]), found["base"])
        for found in map(_LATER.fullmatch, tables)
        if found is not None
    )
    drop_models_of(connection, 3, {f"history.{base}_round_{number}" for number, base in later})
    connection.execute("DROP SCHEMA IF EXISTS rounds CASCADE")
    for base in dict.fromkeys(base for _, base in later):
        if base in tables:
            _add_round(connection, base, 1)
    merged = set(tables)
    for number, base in later:
        name = f"{base}_round_{number}"
        connection.execute(f"DROP VIEW main.{name}")
        if base not in merged:
            connection.execute(f"ALTER TABLE history.{name} RENAME TO {base}")
            _add_round(connection, base, number)
            merged.add(base)
            continue
        for column, kind in _columns(connection, name):
            connection.execute(
                f"ALTER TABLE history.{base} ADD COLUMN IF NOT EXISTS {column} {kind}"
            )
        connection.execute(
            f"INSERT INTO history.{base} BY NAME "
            f"SELECT *, {number} AS policy_round FROM history.{name}"
        )
        connection.execute(f"DROP TABLE history.{name}")


def _history_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = 'history' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in found]


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = 'history' AND table_name = ?",
        [table],
    ).fetchall()


def _add_round(connection: duckdb.DuckDBPyConnection, table: str, number: int) -> None:
    connection.execute(
        f"ALTER TABLE history.{table} ADD COLUMN policy_round BIGINT DEFAULT {number}"
    )
    connection.execute(f"ALTER TABLE history.{table} ALTER COLUMN policy_round DROP DEFAULT")
    connection.execute(f"ALTER TABLE history.{table} ALTER COLUMN policy_round SET NOT NULL")
