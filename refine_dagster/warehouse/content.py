"""Hashes of content: of a row, of a slice's rows, of any view or table."""

from __future__ import annotations

import hashlib
from itertools import combinations
from typing import TYPE_CHECKING

import duckdb

from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.hashing import canonical_json, text_hash
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import TABLES, Slice, Table, round_sql, tables_of

if TYPE_CHECKING:
    import pyarrow as pa

# The content hash of a slice without rows.
NO_ROWS = hashlib.sha256().hexdigest()
# Rows whose ids and hashes are in memory together while a content hash is made.
ROWS_AT_ONCE = 100_000


def slices_in(connection: duckdb.DuckDBPyConnection) -> list[Slice]:
    """The slices that have rows or a materialization, by round and then in table order."""
    filled = " UNION ".join(
        f"SELECT DISTINCT {literal(name)}, {round_sql(table)} FROM history.{name}"
        for name, table in TABLES.items()
    )
    slices = {
        Slice(TABLES[name], PolicyRound(number))
        for name, number in connection.execute(filled).fetchall()
    }
    for (asset,) in connection.execute(
        "SELECT DISTINCT asset FROM lineage.materializations"
    ).fetchall():
        slices |= set(tables_of(asset))
    order = list(TABLES)
    return sorted(slices, key=lambda owned: (owned.policy_round, order.index(owned.table.name)))


def row_hash_sql(table: Table) -> str:
    """The SQL of a row's hash: over `row_id`, payload in order and `parents`.

    An optional column without a value is left out, as it is of the row's id. So is `policy_round`:
    it says to which slice a row belongs, and the slice's content hash covers that.
    """
    cases = []
    for count in range(len(table.optional) + 1):
        for absent in combinations(table.optional, count):
            columns = (
                "row_id",
                *(column for column in table.columns if column not in absent),
                "parents",
            )
            packed = ", ".join(f"{name} := {name}" for name in columns)
            hashed = f"sha256(CAST(to_json(struct_pack({packed})) AS VARCHAR))"
            applies = [
                f"{name} IS {'NULL' if name in absent else 'NOT NULL'}" for name in table.optional
            ]
            cases.append((" AND ".join(applies), hashed))
    if not table.optional:
        return cases[0][1]
    return f"CASE {' '.join(f'WHEN {when} THEN {then}' for when, then in cases)} END"


def content_hash(
    connection: duckdb.DuckDBPyConnection, owned: Slice, as_of: int | None = None
) -> str:
    """One hash of a slice's rows, independent of their physical order, 64 hex digits.

    Args:
        as_of: the sequence after which the rows lived; None takes the live rows.
    """
    alive = "removed_in IS NULL"
    if as_of is not None:
        alive = f"added_in <= {as_of} AND coalesce(removed_in > {as_of}, true)"
    rows = f"FROM history.{owned.table.name} WHERE {owned.condition} AND {alive}"
    # Rows by the first two digits of their ids: each such part has a hash, and these have one.
    sizes = connection.execute(
        "SELECT sum(strlen(row_id) + strlen(row_hash))::BIGINT "
        f"{rows} GROUP BY left(row_id, 2) ORDER BY left(row_id, 2)"
    ).fetchall()
    reader = connection.sql(f"SELECT row_id || row_hash {rows} ORDER BY row_id").to_arrow_reader(
        ROWS_AT_ONCE
    )
    texts, text = (_text(batch.column(0)) for batch in reader), memoryview(b"")
    whole = hashlib.sha256()
    for (size,) in sizes:
        part = hashlib.sha256()
        while size:
            text = text or next(texts)
            part.update(text[:size])
            text, size = text[size:], size - min(size, len(text))
        whole.update(part.hexdigest().encode())
    # A result read to its end lets the connection go on, whoever still holds it.
    left = next(texts, None)
    assert left is None
    reader.close()
    return whole.hexdigest()


def asset_content(connection: duckdb.DuckDBPyConnection, asset: str) -> dict[str, str]:
    """Slice -> content hash of its live rows, for the slices that make up an asset's content.

    An empty slice of a sparse table is none of them. Before a migration the table may not be there.
    """
    hashes = {}
    for owned in tables_of(asset):
        if owned.table.sparse and not _is_there(connection, owned.table):
            continue
        content = content_hash(connection, owned)
        if not (owned.table.sparse and content == NO_ROWS):
            hashes[owned.name] = content
    return hashes


def _is_there(connection: duckdb.DuckDBPyConnection, table: Table) -> bool:
    found = connection.execute(
        "SELECT 1 FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = 'history' AND table_name = ?",
        [table.name],
    )
    return bool(found.fetchall())


def _text(strings: pa.StringArray) -> memoryview:
    """The bytes of all strings, one behind the other, without a copy."""
    _, offsets, data = strings.buffers()
    ends = memoryview(offsets).cast("i")[strings.offset : strings.offset + len(strings) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def relation_content(
    connection: duckdb.DuckDBPyConnection, relation: str
) -> tuple[tuple[tuple[str, str], ...], int, str]:
    """Columns (name, DuckDB type), number of rows and content hash of a view or table.

    Marts have no row ids: their content is the multiset of their rows, and their columns.
    """
    described = connection.execute(f"DESCRIBE {relation}").fetchall()
    columns = tuple((str(row[0]), str(row[1])) for row in described)
    rows, content = connection.execute(
        "SELECT count(*), sha256(coalesce(string_agg(part, '' ORDER BY part), '')) FROM ("
        "SELECT sha256(CAST(to_json(model_row) AS VARCHAR)) AS part "
        f"FROM {relation} AS model_row)"
    ).fetchall()[0]
    whole = canonical_json([[list(column) for column in columns], content])
    return columns, rows, text_hash(whole)
