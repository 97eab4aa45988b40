"""A table of the report, and how its values are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

MISSING = "–"


@dataclass(frozen=True)
class Table:
    """Rows under column heads; `caption` says what one row is."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    @classmethod
    def of(cls, caption: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Table:
        return cls(caption, tuple(columns), tuple(tuple(row) for row in rows))

    def is_number(self, column: int) -> bool:
        """Whether the column holds numbers, which stand to the right."""
        kinds = {type(row[column]) for row in self.rows} - {type(None)}
        return bool(kinds) and kinds <= {int, float}


def selected(
    connection: duckdb.DuckDBPyConnection, caption: str, sql: str, *parameters: Any
) -> Table:
    """The table of one SELECT; its columns' names become the heads."""
    found = connection.execute(sql, list(parameters))
    columns = [column[0] for column in found.description or ()]
    return Table.of(caption, columns, found.fetchall())


def written(value: Any) -> str:
    """A value as text: thousands apart, four digits of a fraction, a dash for what is missing.

    >>> written(1234567), written(0.123456), written(None), written(True)
    ('1,234,567', '0.1235', '–', 'yes')
    """
    if value is None or value == "":
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
    return str(value)


def counted(count: int, noun: str) -> str:
    """A number of things.

    >>> counted(1, "row"), counted(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {noun}{'s' if count != 1 else ''}"


def seconds_text(seconds: float) -> str:
    """A span of time in the unit that suits it.

    >>> seconds_text(0.04), seconds_text(75), seconds_text(7330)
    ('0.04 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 1 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def interval_text(value: float, low: float, high: float, digits: int = 2) -> str:
    """A figure with its interval, as `+1.00 [-0.50, +2.00]`."""
    return f"{value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
