"""Which row a person means who types a part of its id.

Ids have 32 hex digits; the first few name a row well enough until two rows begin alike, which is
then said instead of guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from refine_dagster.errors import RefineError
from refine_dagster.lineage.content import ID_DIGITS

SHORTEST = 6
LISTED = 5
_HEX = frozenset("0123456789abcdef")


class RowError(RefineError):
    """No row, or more than one, is what was asked for."""


@dataclass(frozen=True)
class RowName:
    """A row, live or removed."""

    table: str
    row_id: str


def is_prefix(text: str) -> bool:
    """Whether the text can be the beginning of a row id: 6 to 32 hex digits."""
    return SHORTEST <= len(text) <= ID_DIGITS and set(text.lower()) <= _HEX


def find_row(connection: duckdb.DuckDBPyConnection, text: str) -> RowName:
    """The one row, of any table, live or removed, whose id begins with `text`.

    Raises:
        RowError: the text is no beginning of an id, or no row has it, or several have.
    """
    if not is_prefix(text):
        raise RowError(
            f"{text!r} is no row id",
            fix=f"give the {ID_DIGITS} hex digits of a row_id, or at least its first {SHORTEST}; "
            "`refine-dagster show TABLE` lists them",
        )
    prefix = text.lower()
    # A range and not LIKE: row groups that cannot hold it are then not read. 'g' follows 'f'.
    found = connection.execute(
        "SELECT DISTINCT table_name, row_id FROM lineage.rows "
        "WHERE row_id >= ? AND row_id < ? ORDER BY ALL LIMIT ?",
        [prefix, prefix + "g", LISTED + 1],
    ).fetchall()
    if not found:
        raise RowError(
            f"no row, live or removed, has an id that begins with {prefix}",
            fix="`refine-dagster show TABLE` lists the ids of live rows",
        )
    if len(found) > 1:
        listed = "; ".join(f"{table} {row_id}" for table, row_id in found[:LISTED])
        more = " and more" if len(found) > LISTED else ""
        raise RowError(
            f"several rows have ids that begin with {prefix}: {listed}{more}",
            fix="give more digits",
        )
    return RowName(*found[0])
