"""Where a text stands in a home: in tables, in Dagster's databases, in the bytes of any file.

A text is searched for by a piece of it that every place writes in the same way: without quotation
marks, line breaks and marks that JSON or Markdown escape, and near its beginning, because previews
are cut.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import duckdb

from refine_dagster.warehouse.sql import identifier, literal

# Characters of a piece. Shorter ones are parts of other texts.
LONGEST, WANTED, SHORTEST = 40, 12, 8
_SAME_EVERYWHERE = re.compile(r"(?:[^\s\"\\`*_\[\]<>|&#~!$:/]| (?! ))+")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Left:
    """A place that has one of the texts."""

    place: str
    what: str


def piece_of(text: str) -> str | None:
    """The piece by which a text is searched for; None where all of them are too short.

    >>> piece_of('Say "yes" to the old ferryman, twice.')
    ' to the old ferryman, twice.'
    """
    pieces = [piece[:LONGEST] for piece in _SAME_EVERYWHERE.findall(text)]
    first = next((piece for piece in pieces if len(piece.strip()) >= WANTED), None)
    longest = first or max(pieces, key=len, default="")
    return longest if len(longest.strip()) >= SHORTEST else None


def search_tables(connection: duckdb.DuckDBPyConnection, pieces: Sequence[str]) -> Iterator[Left]:
    """Tables with rows that have a piece."""
    tables = connection.execute(
        "SELECT schema_name, table_name FROM duckdb_tables() "
        "WHERE database_name = current_database() AND NOT internal ORDER BY ALL"
    ).fetchall()
    for schema, table in tables:
        name = f"{identifier(schema)}.{identifier(table)}"
        cells = "CAST(to_json(held) AS VARCHAR)"
        found = " OR ".join(f"contains({cells}, {literal(piece)})" for piece in pieces)
        ((count,),) = connection.execute(
            f"SELECT count(*) FROM {name} AS held WHERE {found}"
        ).fetchall()
        if count:
            yield Left(f"{schema}.{table}", f"{count} rows")


def search_files(root: Path, pieces: Sequence[str]) -> Iterator[Left]:
    """Files under `root` whose bytes have a piece, as text or as JSON, and Dagster's databases.

    Links are not followed: they are named as not searched.
    """
    forms = [form for piece in pieces for form in _forms(piece)]
    for folder, folders, names in os.walk(root):
        for name in sorted([*folders, *names]):
            path = Path(folder, name)
            where = path.relative_to(root).as_posix()
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                yield Left(where, "is no file, and was not searched")
            elif path.is_file():
                if is_sqlite(path) and (count := sum(1 for _ in _cells(path, pieces))):
                    yield Left(where, f"{count} cells")
                elif _has(path, forms):
                    yield Left(where, "its bytes")


def is_sqlite(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(16) == b"SQLite format 3\0"


def text_columns(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Table and column of everything that may hold text."""
    tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    return [
        (table, column)
        for (table,) in tables
        for _, column, kind, *_ in database.execute(f"PRAGMA table_info({identifier(table)})")
        if re.search("CHAR|TEXT|CLOB|JSON|BLOB", kind.upper()) or not kind
    ]


def _cells(path: Path, pieces: Sequence[str]) -> Iterator[str]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        for table, column in text_columns(database):
            sql = f"SELECT {identifier(column)} FROM {identifier(table)}"
            for (cell,) in database.execute(sql):
                if has_piece(cell, pieces):
                    yield str(cell)


def has_piece(cell: object, pieces: Iterable[str]) -> bool:
    """Whether a cell has a piece, as text or as JSON writes it."""
    text = cell.decode("utf-8", "replace") if isinstance(cell, bytes) else cell
    return isinstance(text, str) and any(
        piece in text or _escaped(piece) in text for piece in pieces
    )


def _escaped(piece: str) -> str:
    return json.dumps(piece)[1:-1]


def _forms(piece: str) -> set[bytes]:
    return {piece.encode(), _escaped(piece).encode(), piece.encode("utf-16-le")}


def _has(path: Path, forms: Sequence[bytes]) -> bool:
    overlap = max(map(len, forms)) - 1
    with path.open("rb") as stream:
        before = b""
        while chunk := stream.read(_CHUNK):
            data = before + chunk
            if any(form in data for form in forms):
                return True
            before = data[-overlap:]
    return False
