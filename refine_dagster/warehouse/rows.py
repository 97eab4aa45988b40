"""Rows on their way into the warehouse: declared columns, typed frames, Merkle ids.

`make_row` names a row by the hash of its table, its payload and its parents' ids; `frame` lays rows
out with the column types of `warehouse/tables.py`, so that an empty table is as well-typed as a
full one and a missing or unknown column is caught here and not in SQL.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from refine_dagster.hashing import content_id
from refine_dagster.warehouse.tables import TABLES, Table

Row = dict[str, Any]

_PARENT = pl.Struct({"asset": pl.String, "row_id": pl.String, "role": pl.String})
_TYPES: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "VARCHAR[]": pl.List(pl.String),
    "BIGINT": pl.Int64(),
    "DOUBLE": pl.Float64(),
    "BOOLEAN": pl.Boolean(),
    "STRUCT(input VARCHAR, output VARCHAR)[]": pl.List(
        pl.Struct({"input": pl.String, "output": pl.String})
    ),
}


@dataclass(frozen=True, order=True)
class Parent:
    """A row that another row was made from, and in which role."""

    asset: str
    row_id: str
    role: str


def make_row(table: str, payload: Mapping[str, Any], parents: Iterable[Parent] = ()) -> Row:
    """A row of `table` with its id; equal payloads of equal parents are the same row.

    Raises:
        KeyError: the payload's columns are not exactly the table's.
    """
    declared = TABLES[table].columns
    if payload.keys() != declared.keys():
        missing, unknown = declared.keys() - payload.keys(), payload.keys() - declared.keys()
        raise KeyError(f"{table}: missing columns {sorted(missing)}, unknown {sorted(unknown)}")
    ordered = [
        {"asset": parent.asset, "row_id": parent.row_id, "role": parent.role}
        for parent in sorted(set(parents))
    ]
    values = {name: _as_stored(payload[name], declared[name][0]) for name in declared}
    return {"row_id": content_id(table, values, ordered), **values, "parents": ordered}


def _as_stored(value: Any, duckdb_type: str) -> Any:
    """A value as the warehouse gives it back: 3 in a DOUBLE column is 3.0, and has its hash."""
    return float(value) if duckdb_type == "DOUBLE" and isinstance(value, int) else value


def schema_of(table: Table) -> dict[str, pl.DataType]:
    """Column name -> polars type, `row_id` and `parents` included."""
    payload = {name: _TYPES[duckdb_type] for name, (duckdb_type, _) in table.columns.items()}
    return {"row_id": pl.String(), **payload, "parents": pl.List(_PARENT)}


def frame(table: str, rows: Sequence[Row]) -> pl.DataFrame:
    """Rows of `table` as a typed frame."""
    return pl.DataFrame(rows, schema=schema_of(TABLES[table]), orient="row")
