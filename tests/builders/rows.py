"""Rows of any table, of which a test names only the columns that matter to it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from refine_dagster.warehouse.rows import Parent, Row, make_row
from refine_dagster.warehouse.tables import MAP_TYPE, slice_of

_BY_TYPE: dict[str, Any] = {
    "VARCHAR": "x",
    "VARCHAR[]": [],
    "BIGINT": 1,
    "DOUBLE": 0.5,
    "BOOLEAN": False,
    MAP_TYPE: {},
}
# What a row says that is as it should be: kept by every rule, with nothing wrong.
_BY_NAME: dict[str, Any] = {
    "method": "self_instruct",
    "input": "",
    "round": 0,
    "request": 0,
    "position": 0,
    "parsed": True,
    "parse_problem": None,
    "valid": True,
    "format_valid": True,
    "format_problem": None,
    "kept": True,
    "rule": "kept",
    "value": None,
    "threshold": None,
    "nearest_asset": None,
    "nearest_id": None,
    "nearest_score": None,
    "revision": None,
    "checkpoint_hash": None,
}


def row(name: str, parents: Iterable[Parent] = (), /, **values: Any) -> Row:
    """A row of a table's slice with these values; other columns have one that is as good as any.

    Raises:
        KeyError: the table has no such column.
    """
    table = slice_of(name).table
    payload = {
        column: _BY_NAME[column] if column in _BY_NAME else _BY_TYPE.get(kind)
        for column, (kind, _) in table.columns.items()
        if column not in table.optional
    }
    return make_row(name, {**payload, **values}, parents)


def seed_row(
    seed_id: str, instruction: str = "Name a fruit.", given: str = "", output: str = "a pear"
) -> Row:
    """A row of `seed_tasks` with one instance."""
    return row(
        "seed_tasks",
        seed_id=seed_id,
        name=seed_id,
        instruction=instruction,
        input=given,
        output=output,
        instances=[{"input": given, "output": output}],
    )
