"""The content of a view or table of any shape, as one hash.

Marts have no row ids: what names their content is the multiset of their rows, and their columns.
"""

from __future__ import annotations

import hashlib

import duckdb

from refine_dagster.lineage.content import canonical_json


def content_of(
    connection: duckdb.DuckDBPyConnection, relation: str
) -> tuple[tuple[tuple[str, str], ...], int, str]:
    """Columns (name, DuckDB type), number of rows and content hash of a view or table."""
    described = connection.execute(f"DESCRIBE {relation}").fetchall()
    columns = tuple((str(row[0]), str(row[1])) for row in described)
    rows, content = connection.execute(
        "SELECT count(*), sha256(coalesce(string_agg(part, '' ORDER BY part), '')) FROM ("
        "SELECT sha256(CAST(to_json(model_row) AS VARCHAR)) AS part "
        f"FROM {relation} AS model_row)"
    ).fetchall()[0]
    whole = canonical_json([[list(column) for column in columns], content])
    return columns, rows, hashlib.sha256(whole.encode()).hexdigest()
