"""Rewrites: migrations that store the same rows in another form, and their records in the ledger.

Where a migration changes the form in which rows are hashed, their slices get other content hashes
and their assets other data versions, although no row changed. A record is added for each such
asset: its last one again, with the new hashes and versions, nothing asked, added or removed. An
asset that was up to date stays so. Older records keep the hashes of the old form, and the audit
does not compare these with the rows.

A slice that differs from its last record gets no new one: an audit finds the same after the
migration as before it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb

from refine_dagster.hashing import json_hash
from refine_dagster.warehouse.content import asset_content, row_hash_sql
from refine_dagster.warehouse.ledger import (
    MIGRATION,
    Commit,
    Record,
    next_link,
    write_record,
)
from refine_dagster.warehouse.sql import identifier, literal
from refine_dagster.warehouse.tables import MAP_TYPE, STRUCTURAL, Slice, Table, tables_of

_LAST = """
    SELECT * EXCLUDE (config), coalesce(config, '{}') AS config
    FROM lineage.materializations LEFT JOIN lineage.configs USING (config_hash)
    QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
    ORDER BY sequence
"""


@contextmanager
def rewriting(
    connection: duckdb.DuckDBPyConnection, migration: int, tables: Collection[str]
) -> Iterator[None]:
    """Surround a change of the form in which the rows of some tables are stored and hashed.

    Records are added for the assets of these tables, and for assets whose last record read them.
    """
    last = _last_records(connection)
    kept = {
        asset
        for asset, row in last.items()
        if any(owned.table.name in tables for owned in tables_of(asset))
        and asset_content(connection, asset).items() <= json.loads(row["tables"]).items()
    }
    yield
    hashes = {asset: asset_content(connection, asset) for asset in kept}
    renamed = {
        (asset, last[asset]["data_version"]): json_hash(hashes[asset])
        for asset in kept
        if json_hash(hashes[asset]) != last[asset]["data_version"]
    }
    # Also those whose rows have all been removed: their past states were hashed in the old form.
    rewritten = {
        asset
        for asset in kept
        if any(
            owned.table.name in tables and _has_rows(connection, owned)
            for owned in tables_of(asset)
        )
    }
    for asset, row in last.items():
        inputs = _inputs(connection, row["sequence"])
        read = {name: renamed.get((name, version), version) for name, version in inputs.items()}
        contents = hashes.get(asset, json.loads(row["tables"]))
        if tables_of(asset) and (read != inputs or asset in rewritten):
            _repeat(connection, migration, row, read, contents)


def gather_columns(
    connection: duckdb.DuckDBPyConnection,
    migration: int,
    tables: Sequence[str],
    columns: Sequence[str],
    into: str,
) -> None:
    """Replace number columns of some tables by one mapping from their names to their values.

    Rows keep their ids (`rows.row_id`). The declaration must have the mapping `into` in the place
    of the first of the columns. Each table has all of the columns, or is not there yet.
    """
    present = [name for name in tables if _payload(connection, name)]
    drop_models_of(connection, migration, {f"history.{name}" for name in present})
    entries = ", ".join(f"{literal(name)}: {name}" for name in sorted(columns))
    with rewriting(connection, migration, present):
        for name in present:
            old = _payload(connection, name)
            new = [into if column == columns[0] else column for column in old]
            new = [column for column in new if column not in columns]
            table = f"history.{name}"
            connection.execute(f"ALTER TABLE {table} ADD COLUMN {into} {MAP_TYPE}")
            connection.execute(f"UPDATE {table} SET {into} = MAP {{{entries}}}")
            # A hash that its row does not give is left: the audit goes on finding it.
            connection.execute(
                f"UPDATE {table} SET row_hash = {_hash(name, new)} "
                f"WHERE row_hash = {_hash(name, old)}"
            )
            for column in columns:
                connection.execute(f"ALTER TABLE {table} DROP COLUMN {column}")


def _payload(connection: duckdb.DuckDBPyConnection, table: str) -> list[str]:
    """The payload columns of a history table in order; none where there is no such table."""
    columns = connection.execute(
        "SELECT column_name FROM duckdb_columns() WHERE database_name = current_database() "
        "AND schema_name = 'history' AND table_name = ? ORDER BY column_index",
        [table],
    ).fetchall()
    return [name for (name,) in columns if name not in STRUCTURAL]


def _hash(table: str, columns: Sequence[str]) -> str:
    return row_hash_sql(Table(table, table, dict.fromkeys(columns, ("", "")), ""))


def drop_models_of(
    connection: duckdb.DuckDBPyConnection, migration: int, tables: Collection[str]
) -> None:
    """Drop the views of SQL models that read a table, and record that in the ledger.

    The next run makes them from the models of the running code.

    Args:
        tables: qualified names, such as `history.raw_instructions`; they must still be there.
    """
    views = connection.execute(
        "SELECT schema_name, view_name, sql FROM duckdb_views() "
        "WHERE database_name = current_database() AND schema_name IN ('staging', 'marts')"
    ).fetchall()
    last = _last_records(connection)
    for schema, name, sql in views:
        if not connection.get_table_names(sql.partition(" AS ")[2], qualified=True) & set(tables):
            continue
        connection.execute(f"DROP VIEW {schema}.{identifier(name)}")
        if name in last:
            row = last[name]
            _repeat(connection, migration, row, _inputs(connection, row["sequence"]), {})


def _repeat(
    connection: duckdb.DuckDBPyConnection,
    migration: int,
    row: Mapping[str, Any],
    inputs: Mapping[str, str],
    hashes: Mapping[str, str],
) -> None:
    """Write an asset's last record again with other inputs and hashes."""
    sequence, previous = next_link(connection)
    record = Record(
        asset=row["asset"],
        run_id=f"{MIGRATION}{migration}",
        code_version=row["code_version"],
        config_hash=row["config_hash"],
        inputs=inputs,
        config=json.loads(row["config"]),
        metrics=json.loads(row["metrics"]),
    )
    rows = row["rows_total"] if hashes else 0
    commit = Commit(
        sequence=sequence,
        data_version=json_hash(hashes),
        rows_total=rows,
        rows_added=0,
        rows_removed=row["rows_total"] - rows,
        rows_reused=rows,
    )
    write_record(connection, record, commit, hashes, (), previous)


def _last_records(connection: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    return {row["asset"]: row for row in connection.sql(_LAST).pl().to_dicts()}


def _has_rows(connection: duckdb.DuckDBPyConnection, owned: Slice) -> bool:
    """Whether a slice has rows, live or removed."""
    sql = f"SELECT 1 FROM history.{owned.table.name} WHERE {owned.condition} LIMIT 1"
    return bool(connection.execute(sql).fetchall())


def _inputs(connection: duckdb.DuckDBPyConnection, sequence: int) -> dict[str, str]:
    return dict(
        connection.execute(
            "SELECT asset, data_version FROM lineage.inputs WHERE sequence = ?", [sequence]
        ).fetchall()
    )
