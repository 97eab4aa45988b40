"""The warehouse's schema: its migrations, and the history table and live view of each table.

Fixed tables come from the numbered steps of `migrations/`, each applied once and recorded; history
tables and views come from the declarations in `warehouse/tables.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import duckdb

from refine_dagster.errors import RefineError
from refine_dagster.hashing import content_id
from refine_dagster.warehouse.migrations import MIGRATIONS
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import (
    PARENTS_TYPE,
    POLICY_ROUND,
    TABLES,
    Table,
    asset_sql,
    round_sql,
)


class WarehouseError(RefineError):
    """The warehouse cannot be opened, read or written."""


class WarehouseLockedError(WarehouseError):
    """Another process held the warehouse for too long."""


def migrate(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Bring the schema up to date in one transaction; a no-op where it is.

    Raises:
        WarehouseError: the database was written by a newer version.
    """
    version, fingerprint = read_state(connection)
    known = len(MIGRATIONS)
    if version > known:
        raise WarehouseError(
            f"written by a newer version (schema {version}, this one knows {known})",
            where=str(path),
            fix="upgrade refine-dagster, or choose another REFINE_HOME",
        )
    declared = declarations_fingerprint()
    if (version, fingerprint) == (known, declared):
        return
    connection.execute("BEGIN TRANSACTION")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS main.schema_migrations "
        "(version BIGINT PRIMARY KEY, name VARCHAR NOT NULL)"
    )
    # Older homes note a time here, which nothing vouches for.
    connection.execute("ALTER TABLE main.schema_migrations DROP COLUMN IF EXISTS applied_at")
    for number, migration in enumerate(MIGRATIONS[version:], version + 1):
        migration.apply(connection)
        connection.execute(
            "INSERT INTO main.schema_migrations VALUES (?, ?)", [number, migration.name]
        )
    held = _history_columns(connection)
    for table in TABLES.values():
        create_table(connection, table, held.get(table.name))
    _create_lineage_views(connection)
    connection.execute("DELETE FROM lineage.declarations")
    connection.execute("INSERT INTO lineage.declarations VALUES (?)", [declared])
    connection.execute("COMMIT")


def is_up_to_date(connection: duckdb.DuckDBPyConnection) -> bool:
    """Whether `migrate` has nothing to do."""
    return read_state(connection) == (len(MIGRATIONS), declarations_fingerprint())


def require_known(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Refuse a warehouse whose schema is that of another version; nothing is changed.

    Raises:
        WarehouseError: it is.
    """
    version, _ = read_state(connection)
    if version != len(MIGRATIONS):
        raise WarehouseError(
            f"written by another version (schema {version}, this one knows {len(MIGRATIONS)})",
            where=str(path),
            fix="`refine-dagster status` brings an older one up to date",
        )


def migrations() -> tuple[tuple[int, str], ...]:
    """Version and name of every migration of this version."""
    return tuple(enumerate((migration.name for migration in MIGRATIONS), 1))


@cache
def declarations_fingerprint() -> str:
    """A hash of the declarations that history tables and views are made from."""
    declared = [
        [table.name, table.asset, table.description, table.stored, [*table.columns.values()]]
        for table in TABLES.values()
    ]
    return content_id("declarations", declared, _lineage_views())


def create_table(
    connection: duckdb.DuckDBPyConnection, table: Table, held: Collection[str] | None = None
) -> None:
    """Create a declaration's history table and live view, with its texts as comments.

    Args:
        held: the columns of a history table that is there; None where there is none.
    """
    columns = {name: kind for name, (kind, _) in table.columns.items()}
    if held is None:
        structural = f"{POLICY_ROUND} BIGINT NOT NULL, " if table.rounds_from else ""
        payload = "".join(f"{name} {kind}, " for name, kind in columns.items())
        connection.execute(
            f"CREATE TABLE history.{table.name} (row_id VARCHAR NOT NULL, {structural}{payload}"
            f"parents {PARENTS_TYPE}, row_hash VARCHAR NOT NULL, added_in BIGINT NOT NULL, "
            "removed_in BIGINT)"
        )
    for name in () if held is None else [column for column in columns if column not in held]:
        connection.execute(f"ALTER TABLE history.{table.name} ADD COLUMN {name} {columns[name]}")
    connection.execute(
        f"CREATE OR REPLACE VIEW main.{table.name} AS "
        f"SELECT {', '.join(table.stored)} FROM history.{table.name} WHERE removed_in IS NULL"
    )
    connection.execute(f"COMMENT ON VIEW main.{table.name} IS {literal(table.description)}")
    for name, (_, meaning) in table.columns.items():
        connection.execute(f"COMMENT ON COLUMN history.{table.name}.{name} IS {literal(meaning)}")


def _history_columns(connection: duckdb.DuckDBPyConnection) -> dict[str, list[str]]:
    columns = connection.execute(
        "SELECT table_name, list(column_name) FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = 'history' GROUP BY ALL"
    ).fetchall()
    return dict(columns)


@contextmanager
def new_schema() -> Iterator[duckdb.DuckDBPyConnection]:
    """A new warehouse in memory, with the schema that every warehouse must have."""
    with duckdb.connect(":memory:") as fresh:
        migrate(fresh, Path(":memory:"))
        yield fresh


def _create_lineage_views(connection: duckdb.DuckDBPyConnection) -> None:
    """Create `lineage.rows`, every row of every table with its lifetime, and the views over it."""
    union = " UNION ALL ".join(
        f"SELECT {literal(name)} AS table_name, {round_sql(table)}::BIGINT AS policy_round, "
        f"{asset_sql(table)} AS asset, row_id, added_in, removed_in FROM history.{name}"
        for name, table in TABLES.items()
    )
    connection.execute(f"CREATE OR REPLACE VIEW lineage.rows AS {union}")
    connection.execute(_lineage_views())


def _lineage_views() -> str:
    return (files("refine_dagster.warehouse") / "views.sql").read_text(encoding="utf-8")


def read_state(connection: duckdb.DuckDBPyConnection) -> tuple[int, str | None]:
    """Schema version and fingerprint of the declarations; (0, None) of a new file."""
    try:
        row = first_row(connection, "SELECT max(version) FROM main.schema_migrations")
    except duckdb.CatalogException:
        return 0, None
    version = int(row[0]) if row and row[0] is not None else 0
    if version > len(MIGRATIONS):
        return version, None
    declared = first_row(connection, "SELECT fingerprint FROM lineage.declarations")
    return version, str(declared[0]) if declared else None


def first_row(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[Any, ...] | None:
    # All rows are fetched: DuckDB 2.0 refuses new work beside a half-read result.
    rows = connection.execute(sql).fetchall()
    return rows[0] if rows else None
