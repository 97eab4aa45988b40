"""Rows on their way into the warehouse: declared columns, typed frames, Merkle ids.

`make_row` names a row by the hash of its slice, its payload and its parents' ids; `frame` gives
rows the declared column types, so that an empty table is typed like a full one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import polars as pl

from refine_dagster.hashing import content_id
from refine_dagster.warehouse.tables import MAP_TYPE, Table, slice_of

Row = dict[str, Any]

_PARENT = pl.Struct({"asset": pl.String, "row_id": pl.String, "role": pl.String})
_TYPES: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "VARCHAR[]": pl.List(pl.String),
    "BIGINT": pl.Int64(),
    "DOUBLE": pl.Float64(),
    "BOOLEAN": pl.Boolean(),
    MAP_TYPE: pl.Map(pl.String, pl.Float64),
    "STRUCT(input VARCHAR, output VARCHAR)[]": pl.List(
        pl.Struct({"input": pl.String, "output": pl.String})
    ),
}


@dataclass(frozen=True, order=True)
class Parent:
    """A row that another row was made from, and in which role; `asset` names its slice."""

    asset: str
    row_id: str
    role: str


def as_parent(name: str, row: Row, role: str) -> Parent:
    return Parent(name, row["row_id"], role)


def parents(rows: Iterable[Row], name: str, role: str) -> list[Parent]:
    return [as_parent(name, row, role) for row in rows]


def make_row(name: str, payload: Mapping[str, Any], parents: Iterable[Parent] = ()) -> Row:
    """A row of a slice with its id; equal payloads of equal parents are the same row.

    Args:
        name: the slice, such as `raw_instructions_round_2`.
        payload: a value for each of the table's columns; optional ones may be left out.

    Raises:
        KeyError: there is no such slice, or the payload's columns are not the table's.
    """
    table = slice_of(name).table
    given = {**dict.fromkeys(table.optional), **payload}
    if given.keys() != table.columns.keys():
        missing, unknown = table.columns.keys() - given.keys(), given.keys() - table.columns.keys()
        raise KeyError(f"{name}: missing columns {sorted(missing)}, unknown {sorted(unknown)}")
    ordered = [asdict(parent) for parent in sorted(set(parents))]
    values = {
        column: _as_stored(given[column], kind) for column, (kind, _) in table.columns.items()
    }
    return {"row_id": row_id(name, values, ordered), **values, "parents": ordered}


def row_id(name: str, values: Mapping[str, Any], parents: Sequence[Mapping[str, str]]) -> str:
    """The id of a row of a slice, 32 hex digits.

    The entries of a mapping count as columns of their own, and an optional column without a value
    as none: a table can gather columns in a mapping, or get a new one, and its rows keep their ids.

    Raises:
        KeyError: a mapping has an entry that is named like a column.
    """
    named = named_content(slice_of(name).table, values)
    return content_id(name, named, list(parents))


def named_content(table: Table, values: Mapping[str, Any]) -> Row:
    """What a row's id covers of its payload: see `row_id`."""
    named: Row = {}
    for column, (kind, _) in table.columns.items():
        value = values[column]
        if kind != MAP_TYPE:
            if value is not None or column not in table.optional:
                named[column] = value
            continue
        if taken := value.keys() & (table.columns.keys() | named.keys()):
            raise KeyError(
                f"{table.name}: {column} has entries named like columns: {sorted(taken)}"
            )
        named |= value
    return named


def _as_stored(value: Any, kind: str) -> Any:
    """A value as the warehouse gives it back: 3 in a DOUBLE column is 3.0, and has its hash."""
    if kind == MAP_TYPE:
        return {key: _as_stored(value[key], "DOUBLE") for key in sorted(value)}
    return float(value) if kind == "DOUBLE" and isinstance(value, int) else value


def schema_of(table: Table) -> dict[str, pl.DataType]:
    """Column name -> polars type of a slice's rows, `row_id` and `parents` included."""
    payload = {name: _TYPES[kind] for name, (kind, _) in table.columns.items()}
    return {"row_id": pl.String(), **payload, "parents": pl.List(_PARENT)}


def frame(name: str, rows: Sequence[Row]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema_of(slice_of(name).table), orient="row")


def with_entries(rows: pl.DataFrame) -> pl.DataFrame:
    """The rows with a column for each entry of a mapping, sorted, in place of the mapping."""
    columns: list[pl.Series] = []
    for column in rows:
        if not isinstance(column.dtype, pl.Map):
            columns.append(column)
            continue
        mappings = [mapping or {} for mapping in column.to_list()]
        columns += [
            pl.Series(key, [mapping.get(key) for mapping in mappings], pl.Float64)
            for key in sorted({key for mapping in mappings for key in mapping})
        ]
    return pl.DataFrame(columns)
