"""A warehouse's file written again, so that no block of it holds what was deleted.

DuckDB marks deleted rows and free blocks; their bytes stay in the file.
"""

from __future__ import annotations

import os
from pathlib import Path

import duckdb

from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.sql import literal

_CATALOG = (
    "SELECT schema_name, table_name, sql, comment FROM duckdb_tables()",
    "SELECT schema_name, view_name, sql, comment FROM duckdb_views()",
    "SELECT schema_name, function_name, macro_definition, comment FROM duckdb_functions()",
    "SELECT schema_name, index_name, sql, comment FROM duckdb_indexes()",
    "SELECT schema_name, sequence_name, sql, comment FROM duckdb_sequences()",
)


def rewrite_file(path: Path) -> None:
    """Replace the database at `path` by a copy of what it holds; nobody may have it open.

    Raises:
        WarehouseError: the copy cannot be written, or is not the same; the file is as it was.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}.copy")
    fresh.unlink(missing_ok=True)
    try:
        with duckdb.connect(":memory:") as connection:
            connection.execute(f"ATTACH {literal(str(path))} AS former (READ_ONLY)")
            connection.execute(f"ATTACH {literal(str(fresh))} AS copy")
            connection.execute("COPY FROM DATABASE former TO copy")
            same = _content(connection, "former") == _content(connection, "copy")
            connection.execute("DETACH copy")
        if not same:
            raise WarehouseError("the copy differs from the database", where=str(path))
        with fresh.open("rb") as stream:
            os.fsync(stream.fileno())
        fresh.replace(path)
        path.with_name(f"{path.name}.wal").unlink(missing_ok=True)
    except (duckdb.IOException, OSError) as error:
        raise WarehouseError(
            f"the database cannot be written again: {error}",
            where=str(path),
            fix="make room and repeat; the file is as it was",
        ) from error
    finally:
        fresh.unlink(missing_ok=True)
        fresh.with_name(f"{fresh.name}.wal").unlink(missing_ok=True)


def _content(connection: duckdb.DuckDBPyConnection, database: str) -> list[object]:
    """The catalog, and the number of rows of every table."""
    catalog: list[object] = [
        connection.execute(
            f"{sql} WHERE database_name = ? AND NOT internal ORDER BY ALL"
            if "sequences" not in sql and "indexes" not in sql
            else f"{sql} WHERE database_name = ? ORDER BY ALL",
            [database],
        ).fetchall()
        for sql in _CATALOG
    ]
    tables = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = ? AND NOT internal ORDER BY ALL",
        [database],
    ).fetchall()
    for schema, table in tables:
        sql = f'SELECT count(*) FROM {database}."{schema}"."{table}"'
        catalog.append(connection.execute(sql).fetchall())
    return catalog
