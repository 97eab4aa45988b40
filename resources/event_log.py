"""Dagster's event log for one run: its files stay open, where Dagster opens them for every event.

A run of this graph has some six hundred events. For each of them `SqliteEventLogStorage` makes an
engine, opens the file, compiles its statements and closes the file, up to four times; that is half
the time of a run in which nothing has changed, and no public setting changes it. Files and
statements stay Dagster's own, so the UI reads what is written here, also while it is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import dagster as dg
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.sqlite import SqliteEventLogStorage
from dagster._serdes import ConfigurableClassData
from dagster_shared.check import CheckError
from sqlalchemy import Connection, Engine, QueuePool, create_engine, event
from sqlalchemy.exc import DBAPIError
from yaml import YAMLError

from refine_dagster.errors import RefineError, first_line
from refine_dagster.home import Home

_WAIT_S = 60.0
# What SQLite says of a file that is no database, or that was overwritten in part.
_DAMAGED = re.compile("not a database|malformed|no such (table|column)|unsupported file format")


class OpenEventLog(SqliteEventLogStorage):
    """A SQLite event log that keeps one connection to each file until it is disposed of.

    For the process of a run, which writes two files; the UI reads hundreds and uses Dagster's own.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        super().__init__(base_dir, inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """How Dagster makes a storage that a configuration names."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engines.get(shard)
            if engine is None:
                engine = self._engines[shard] = _engine(self.conn_string_for_shard(shard))
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                # The file is made over a connection without a write-ahead log.
                engine.dispose()
                self._initialized_dbs.add(shard)
            with engine.connect() as connection, connection.begin():
                yield connection

    def dispose(self) -> None:
        super().dispose()
        with self._db_lock:
            while self._engines:
                self._engines.popitem()[1].dispose()


class DagsterFilesError(RefineError):
    """Dagster's own files in the home cannot be read or written."""


def open_instance(home: Home) -> dg.DagsterInstance:
    """Dagster's instance of a home, for a run in this process.

    A storage that somebody named in `dagster.yaml` is left as it is.

    Raises:
        DagsterFilesError: `dagster.yaml` cannot be read, or is not what Dagster accepts.
    """
    folder = str(home.dagster)
    try:
        ref = InstanceRef.from_dir(folder)
    except (YAMLError, UnicodeDecodeError, dg.DagsterError, CheckError) as error:
        raise DagsterFilesError(
            f"Dagster cannot read it: {first_line(error)}",
            where=str(home.dagster / "dagster.yaml"),
            fix="correct the file, or remove it: the next run writes the default",
        ) from error
    storage, log = ref.storage_data, ref.event_storage_data
    if storage and log and storage.class_name == "DagsterSqliteStorage":
        named = {
            "module": __name__,
            "class": OpenEventLog.__name__,
            "config": {"base_dir": log.config_dict["base_dir"]},
        }
        ref = InstanceRef.from_dir(folder, overrides={"event_log_storage": named})
    return dg.DagsterInstance.from_ref(ref)


def files_error(home: Home, error: DBAPIError | OSError) -> DagsterFilesError:
    """The error for a file of Dagster's that is damaged, or cannot be written."""
    reason = error.orig if isinstance(error, DBAPIError) else error.strerror
    damaged = _DAMAGED.search(str(reason))
    return DagsterFilesError(
        f"Dagster's own files {'are damaged' if damaged else 'cannot be written'}: {reason}",
        where=str(home.dagster),
        fix="put them back from a copy, or move the folder away: runs and events of before are "
        "then not shown; the warehouse has every row and record"
        if damaged
        else "make room and run again; what was finished before is kept",
    )


def _engine(address: str) -> Engine:
    engine = create_engine(
        address,
        poolclass=QueuePool,
        pool_size=1,
        connect_args={"timeout": _WAIT_S, "check_same_thread": False},
    )

    @event.listens_for(engine, "connect")
    def _settings(connection: Any, _record: Any) -> None:
        # Safe from a kill; a power cut may take the last events, which the next run reports again.
        connection.execute("PRAGMA synchronous=NORMAL")

    return engine
