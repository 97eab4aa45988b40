"""The warehouse's file: created whole, opened by one process at a time.

DuckDB lets one process at a time open a file for writing. Another waits here, and its error names
the holder if the wait is in vain.

Starting a DuckDB costs 25 ms of processor time, and a run opens its warehouse some hundreds of
times. So a process starts one, without a file, and attaches a file to it while any of its
connections is open: a quarter of the cost, and the file is closed and free for others in between.
"""

from __future__ import annotations

import atexit
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count
from pathlib import Path
from typing import Any, ClassVar

import duckdb
import polars as pl

from refine_dagster import progress
from refine_dagster.errors import first_line
from refine_dagster.warehouse.schema import WarehouseError, WarehouseLockedError
from refine_dagster.warehouse.sql import identifier, literal, literals

# What DuckDB says where a checksum is wrong, or what is stored makes no sense.
_DAMAGED = re.compile("(?i)corrupt|checksum|failed to deserialize|serialization error")
_OF_THE_FILE = (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException)
# The schemas of a warehouse.
_SCHEMAS = ("main", "history", "lineage", "store", "staging", "marts")
# What DuckDB raises as a RuntimeError when Ctrl-C ends a query.
_INTERRUPTED = "Query interrupted"
# A pause between two attempts to open a file from which on the wait is reported.
_SHORT_WAIT_S = 0.2
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    # A missing table must be an error, not a Python variable of that name.
    "python_enable_replacements": False,
}


class DatabaseFile:
    """A DuckDB file, made on first use, that processes take turns to open.

    Another process that has it open is waited for, `lock_timeout_s` at most. With `read_only`, the
    file is there already, and nothing of it is changed or made.
    """

    def __init__(
        self, path: Path, *, lock_timeout_s: float = 30.0, read_only: bool = False
    ) -> None:
        self.path = path
        self.lock_timeout_s = lock_timeout_s
        self.read_only = read_only
        self._held: duckdb.DuckDBPyConnection | None = None

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Bring the file's content up to date; called whenever it was opened."""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep the file open for a burst of reads and writes; opening it costs more than most.

        No other process can open the file meanwhile: not to be held while a model works.
        """
        if self._held is not None:
            yield
            return
        with self.connect() as connection:
            self._held = connection
            try:
                yield
            finally:
                self._held = None

    @contextmanager
    def connect(self, *, prepared: bool = True) -> Iterator[duckdb.DuckDBPyConnection]:
        """A short connection to the file, closed whatever happens.

        Args:
            prepared: whether to bring the content up to date first, where the file was not open.

        Raises:
            WarehouseLockedError: another process held the file for `lock_timeout_s`.
            WarehouseError: the file is no database, is too new, or cannot be written.
            KeyboardInterrupt: Ctrl-C, also during a query, which DuckDB reports in its own way.
        """
        held = self._held
        given = self.path, self.lock_timeout_s, self.read_only
        connection = beside(held) if held else open_database(*given)
        try:
            if held is None and prepared:
                self.prepare(connection)
            yield connection
        except RuntimeError as error:
            if str(error) != _INTERRUPTED:
                raise
            raise KeyboardInterrupt from error
        except duckdb.Error as error:
            if _DAMAGED.search(str(error)):
                raise _damaged_file(self.path, error) from error
            if not isinstance(error, _OF_THE_FILE):
                raise
            if not isinstance(error, duckdb.IOException) and "Could not" not in str(error):
                raise
            raise WarehouseError(
                f"writing failed: {first_line(error)}",
                where=str(self.path),
                fix="free disk space and run again; nothing of the failed commit was kept",
            ) from error
        finally:
            if held is None:
                close_database(connection, self.path)
            else:
                connection.close()

    @contextmanager
    def reading(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection for SELECTs that are read to the end: where the file is held, the held one.

        Another one beside it would cost more than most queries.
        """
        if self._held is not None:
            yield self._held
            return
        with self.connect() as connection:
            yield connection

    def query(self, sql: str, parameters: Sequence[Any] | None = None) -> pl.DataFrame:
        """The result of one SELECT."""
        with self.reading() as connection:
            return connection.sql(sql, params=parameters).pl()


def open_database(
    path: Path, lock_timeout_s: float, read_only: bool = False
) -> duckdb.DuckDBPyConnection:
    """A connection to the file at `path`, made if needed; closed by `close_database` only.

    Raises:
        WarehouseLockedError: another process held the file for `lock_timeout_s`.
        WarehouseError: the file is no database, or cannot be made.
    """
    try:
        if not read_only:
            path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WarehouseError(
            f"cannot make the folder: {error.strerror}",
            where=str(path.parent),
            fix="choose another REFINE_HOME, or make room",
        ) from error
    deadline = time.monotonic() + lock_timeout_s
    pause, told = 0.05, False
    while True:
        try:
            if not read_only and not path.exists():
                _make_file(path)
            return _attached(path, read_only)
        except OSError as error:
            raise WarehouseError(
                f"cannot make the database: {error.strerror}",
                where=str(path),
                fix="make room, or choose another REFINE_HOME",
            ) from error
        except duckdb.Error as error:
            if _DAMAGED.search(str(error)):
                raise _damaged_file(path, error) from error
            if not isinstance(error, duckdb.IOException):
                raise
            holder = re.search(r"Conflicting lock is held in (.+?)\. ", str(error))
            if "Could not set lock on file" not in str(error):
                raise WarehouseError(
                    f"cannot open the database: {first_line(error)}",
                    where=str(path),
                    fix="check that the file is a refine-dagster warehouse and that the disk "
                    "has room, or choose another REFINE_HOME",
                ) from error
            by = holder.group(1) if holder else "another process"
            if not told and pause > _SHORT_WAIT_S:
                told = True
                progress.note(f"waiting up to {lock_timeout_s:g} s for {by}, which holds {path}")
            if time.monotonic() >= deadline:
                raise WarehouseLockedError(
                    f"the database is held by {by}, waited {lock_timeout_s:g} s",
                    where=str(path),
                    fix="wait for that process, or stop it, and run again",
                ) from error
        time.sleep(pause)
        pause = min(pause * 1.5, 1.0)


def _damaged_file(path: Path, error: duckdb.Error) -> WarehouseError:
    """The error for a file of which some bytes are not those that DuckDB wrote."""
    return WarehouseError(
        f"the database is damaged: {first_line(error)}",
        where=str(path),
        fix="put the file back from a copy; `refine-dagster audit verify` names what else is "
        "damaged, where it can be opened",
    )


def close_database(connection: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Close a connection of `open_database`, and the file with its last one."""
    path = path.resolve()
    connection.close()
    with _lock:
        process = _Process.current
        opened = process.files.get(path) if process else None
        if process is None or opened is None:
            return
        opened.users -= 1
        if opened.users == 0:
            del process.files[path]
            try:
                process.duckdb.execute(f"DETACH {identifier(opened.name)}")
            except (duckdb.IOException, duckdb.FatalException, duckdb.TransactionException):
                # What was committed is in the file's log; this DuckDB is of no use any more.
                _Process.current = None


def beside(connection: duckdb.DuckDBPyConnection) -> duckdb.DuckDBPyConnection:
    """Another connection to the same file, with transactions and temporary tables of its own."""
    ((path,),) = connection.execute("SELECT system.main.current_setting('search_path')").fetchall()
    other = connection.cursor()
    other.execute(f"SET search_path = {literal(path)}")
    return other


def built_ins_only(connection: duckdb.DuckDBPyConnection) -> str:
    """Make names of functions and types mean DuckDB's own on a connection; the database's name.

    A macro in the file that is called `sha256` comes before the built-in function otherwise. Tables
    are found by schema and name as before; bodies of views are not affected.
    """
    ((name,),) = connection.execute("SELECT system.main.current_database()").fetchall()
    found = connection.execute(
        "SELECT schema_name FROM system.main.duckdb_schemas() "
        f"WHERE database_name = {literal(name)} AND schema_name IN ({literals(_SCHEMAS)})"
    ).fetchall()
    path = ["system.main", *(f"{name}.{schema}" for (schema,) in found)]
    connection.execute(f"SET search_path = {literal(','.join(path))}")
    return str(name)


@dataclass
class _OpenFile:
    """An attached file: its name in DuckDB, and the number of connections to it."""

    name: str
    users: int = 0


@dataclass
class _Process:
    """The DuckDB of this process, and the files attached to it."""

    current: ClassVar[_Process | None] = None

    duckdb: duckdb.DuckDBPyConnection
    pid: int = field(default_factory=os.getpid)
    files: dict[Path, _OpenFile] = field(default_factory=dict)


@atexit.register
def _end() -> None:
    """Close the process's DuckDB while its library is still loaded."""
    process, _Process.current = _Process.current, None
    if process is not None and process.pid == os.getpid():
        process.duckdb.close()


_lock = threading.Lock()
_inherited: list[_Process] = []


def _attached(path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
    path = path.resolve()
    with _lock:
        process = _Process.current
        if process is not None and process.pid != os.getpid():
            # The threads of a parent's DuckDB stayed there; closing it would wait for them.
            _inherited.append(process)
            process = None
        if process is None:
            process = _Process.current = _Process(duckdb.connect(":memory:", config=_CONFIG))
        opened = process.files.get(path)
        if opened is None:
            taken = {"memory", "system", "temp"} | {file.name for file in process.files.values()}
            names = chain([path.stem], (f"{path.stem}_{number}" for number in count(2)))
            name = next(name for name in names if name not in taken)
            where = f"{literal(str(path))} AS {identifier(name)}"
            how = "TYPE duckdb, READ_ONLY" if read_only else "TYPE duckdb"
            process.duckdb.execute(f"ATTACH {where} ({how})")
            opened = process.files[path] = _OpenFile(name)
        connection = process.duckdb.cursor()
        connection.execute(f"USE {identifier(opened.name)}")
        opened.users += 1
        return connection


def _make_file(path: Path) -> None:
    """Create an empty database at `path` in one step; keep one that is there.

    DuckDB writes a new file in several steps and refuses one that was left in between.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    try:
        duckdb.connect(str(fresh), config=_CONFIG).close()
        # A link, unlike a rename, never replaces a file that another process put there meanwhile.
        with suppress(FileExistsError):
            os.link(fresh, path)
    except OSError:
        # A file system without links, or one without room; the second fails again.
        fresh.rename(path)
    finally:
        fresh.unlink(missing_ok=True)
