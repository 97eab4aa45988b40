"""Texts taken out of Dagster's own records: its SQLite files and the captured output of steps.

Dagster's events hold previews of tables. An event keeps its other metadata; the string that had the
text says that it was removed.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.home import write_atomically
from refine_dagster.lineage.text_search import has_piece, is_sqlite, text_columns
from refine_dagster.warehouse.sql import identifier

REMOVED = "[removed: a seed was forgotten]"


def redact_logs(root: Path, pieces: Sequence[str]) -> int:
    """Take texts with a piece out of every file under `root`; the number of cells and lines.

    SQLite files are written again, so that no page of them keeps what was removed.

    Raises:
        RefineError: a file is in use or cannot be written.
    """
    count = 0
    for path in sorted(root.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            count += _database(path, pieces) if is_sqlite(path) else _lines(path, pieces)
        except (sqlite3.Error, OSError) as error:
            raise RefineError(
                f"a text cannot be removed: {error}",
                where=str(path),
                fix="stop `refine-dagster ui` in this home, and call `forget` again",
            ) from error
    return count


def redacted(value: Any, pieces: Sequence[str]) -> Any:
    """JSON values in which every string with a piece says that it was removed."""
    if isinstance(value, str):
        return REMOVED if has_piece(value, pieces) else value
    if isinstance(value, list):
        return [redacted(item, pieces) for item in value]
    if isinstance(value, dict):
        return {name: redacted(item, pieces) for name, item in value.items()}
    return value


def _database(path: Path, pieces: Sequence[str]) -> int:
    count = 0
    with closing(sqlite3.connect(path, timeout=5.0, isolation_level=None)) as database:
        database.execute("PRAGMA secure_delete = ON")
        database.execute("BEGIN IMMEDIATE")
        for table, column in text_columns(database):
            name, cell = identifier(table), identifier(column)
            found = [
                (_cell(content, pieces), rowid)
                for rowid, content in database.execute(f"SELECT rowid, {cell} FROM {name}")
                if has_piece(content, pieces)
            ]
            database.executemany(f"UPDATE {name} SET {cell} = ? WHERE rowid = ?", found)
            count += len(found)
        database.execute("COMMIT")
        if count:
            database.execute("VACUUM")
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return count


def _cell(content: Any, pieces: Sequence[str]) -> Any:
    try:
        value = json.loads(content)
    except ValueError:
        return REMOVED
    return json.dumps(redacted(value, pieces))


def _lines(path: Path, pieces: Sequence[str]) -> int:
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [f"{REMOVED}\n".encode() if has_piece(line, pieces) else line for line in lines]
    count = sum(one is not other for one, other in zip(lines, kept, strict=True))
    if count:
        write_atomically(path, b"".join(kept))
    return count
