"""The warehouse's file: made whole, opened alone.

DuckDB lets one process at a time open a file for writing. Another waits here, and is told by whom
the file is held if it waits in vain.
"""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import duckdb

from refine_dagster.errors import first_line
from refine_dagster.lineage.schema import WarehouseError, WarehouseLockedError

_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # A missing table must be an error, not a Python variable of that name.
    "python_enable_replacements": False,
}


def open_database(path: Path, lock_timeout_s: float) -> duckdb.DuckDBPyConnection:
    """A connection to the file at `path`, which is made where there is none.

    Raises:
        WarehouseLockedError: another process held the file for `lock_timeout_s`.
        WarehouseError: the file is no database, or cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WarehouseError(
            f"cannot make the folder: {error.strerror}",
            where=str(path.parent),
            fix="choose another REFINE_HOME, or make room",
        ) from error
    deadline = time.monotonic() + lock_timeout_s
    pause = 0.05
    while True:
        try:
            if not path.exists():
                _make_file(path)
            return duckdb.connect(str(path), config=_CONFIG)
        except OSError as error:
            raise WarehouseError(
                f"cannot make the database: {error.strerror}",
                where=str(path),
                fix="make room, or choose another REFINE_HOME",
            ) from error
        except duckdb.IOException as error:
            holder = re.search(r"Conflicting lock is held in (.+?)\. ", str(error))
            if "Could not set lock on file" not in str(error):
                raise WarehouseError(
                    f"cannot open the database: {first_line(error)}",
                    where=str(path),
                    fix="check that the file is a refine-dagster warehouse and that the disk "
                    "has room, or choose another REFINE_HOME",
                ) from error
            if time.monotonic() >= deadline:
                by = holder.group(1) if holder else "another process"
                raise WarehouseLockedError(
                    f"the database is held by {by}, waited {lock_timeout_s:g} s",
                    where=str(path),
                    fix="wait for that process, or stop it, and run again",
                ) from error
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _make_file(path: Path) -> None:
    """An empty database at `path`, whole from the first moment; nothing where there is one.

    DuckDB writes a new file in several steps and refuses one that was left in between.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        duckdb.connect(str(fresh), config=_CONFIG).close()
        _put_in_place(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)


def _put_in_place(fresh: Path, path: Path) -> None:
    # A link, unlike a rename, never replaces what another process has put there meanwhile.
    try:
        os.link(fresh, path)
    except FileExistsError:
        return
    except OSError:
        # A file system without links, or one without room; the second fails again.
        fresh.rename(path)
