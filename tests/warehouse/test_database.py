"""One DuckDB a process, and yet every file is open only for as long as somebody has it open."""

from __future__ import annotations

import multiprocessing
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

from refine_dagster.lineage.audit import verify
from refine_dagster.warehouse.database import (
    DatabaseFile,
    beside,
    close_database,
    open_database,
)
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import seed_row
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit, new_warehouse

READS = """
import duckdb, sys
reader = duckdb.connect(sys.argv[1], read_only=True)
print("open", flush=True)
input()
"""
OPENS = "import duckdb, sys; duckdb.connect(sys.argv[1]).close()"


def _other_process_can_open(path: Path) -> bool:
    command = [sys.executable, "-c", OPENS, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or "Could not set lock on file" in done.stderr
    return done.returncode == 0


def test_a_file_is_free_for_others_when_its_last_connection_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    first, second = open_database(path, 0.0), open_database(path, 0.0)
    first.execute("CREATE TABLE one AS SELECT 1 AS a")
    assert second.execute("SELECT a FROM one").fetchall() == [(1,)]
    close_database(first, path)
    assert not _other_process_can_open(path)
    assert second.execute("SELECT a FROM one").fetchall() == [(1,)]
    close_database(second, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["w.duckdb"]
    assert _other_process_can_open(path)


def test_files_of_one_name_are_told_apart(tmp_path: Path) -> None:
    homes = [Warehouse(tmp_path / name / "warehouse.duckdb") for name in ("a", "b")]
    with homes[0].connect() as one, homes[1].connect() as other:
        for number, connection in enumerate((one, other)):
            connection.execute("CREATE SCHEMA marts")
            connection.execute(f"CREATE TABLE marts.told AS SELECT {number} AS number")
        read = [c.execute("SELECT number FROM marts.told").fetchall() for c in (one, other)]
        assert read == [[(0,)], [(1,)]]
        one.execute("CREATE TABLE marts.extra AS SELECT 1 AS number")
    assert "extra" in homes[0].relations()
    with homes[0].held():
        assert "extra" not in homes[1].relations()


def test_a_connection_beside_another_sees_the_file_and_has_a_transaction_of_its_own(
    tmp_path: Path,
) -> None:
    path = tmp_path / "w.duckdb"
    first = open_database(path, 0.0)
    first.execute("CREATE TABLE one AS SELECT 1 AS a")
    first.execute("BEGIN TRANSACTION")
    first.execute("INSERT INTO one VALUES (2)")
    second = beside(first)
    assert second.execute("SELECT count(*) FROM one").fetchall() == [(1,)]
    first.execute("COMMIT")
    assert second.execute("SELECT count(*) FROM one").fetchall() == [(2,)]
    second.close()
    close_database(first, path)


def test_threads_share_a_file(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w.duckdb")
    warehouse.query("SELECT 1")
    failed: list[duckdb.Error] = []

    def ask() -> None:
        try:
            for _ in range(5):
                warehouse.query("SELECT count(*) FROM seed_tasks")
        except duckdb.Error as error:
            failed.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert _other_process_can_open(warehouse.path)


def test_a_forked_process_opens_files_of_its_own(tmp_path: Path) -> None:
    Warehouse(tmp_path / "parent.duckdb").query("SELECT 1")
    child = multiprocessing.get_context("fork").Process(
        target=_make_table, args=(tmp_path / "child.duckdb",)
    )
    child.start()
    child.join(60)
    assert child.exitcode == 0
    assert "told" in Warehouse(tmp_path / "child.duckdb").relations()


def _make_table(path: Path) -> None:
    with Warehouse(path).connect() as connection:
        connection.execute("CREATE SCHEMA marts")
        connection.execute("CREATE TABLE marts.told AS SELECT 1 AS number")


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
def test_a_file_that_could_not_be_tidied_up_has_what_was_committed(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    connection = open_database(path, 0.0)
    connection.execute("CREATE TABLE one AS SELECT 1 AS a")
    close_database(connection, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    connection = open_database(path, 0.0)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    try:
        # The log has room for these, the file has none when it takes them over.
        connection.execute(
            "CREATE TABLE two AS SELECT range AS a, md5(range::VARCHAR) AS b FROM range(1000)"
        )
        close_database(connection, path)
        assert (tmp_path / "w.duckdb.wal").exists()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    connection = open_database(path, 0.0)
    assert connection.execute("SELECT count(*) FROM two").fetchall() == [(1000,)]
    close_database(connection, path)


@pytest.mark.parametrize("at", [100, 0.2, 0.4, 0.6, 0.8])
def test_a_damaged_file_is_one_error_and_named_by_the_audit(tmp_path: Path, at: float) -> None:
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    commit(warehouse, "seed_tasks", [seed_row(f"{n}", "word " * 200) for n in range(200)])
    data = bytearray(warehouse.path.read_bytes())
    place = int(at) if at > 1 else int(at * len(data))
    data[place : place + 64] = bytes(byte ^ 0xFF for byte in data[place : place + 64])
    warehouse.path.write_bytes(data)
    told = []
    for use in (
        lambda: warehouse.read("seed_tasks"),
        lambda: commit(warehouse, "seed_tasks", []),
        lambda: verify(warehouse, tmp_path / "checkpoints"),
    ):
        try:
            use()
        except WarehouseError as error:
            told.append(error.what)
    assert all(what.startswith("the database is damaged: ") for what in told)
    # The file's header is read first of all.
    assert len(told) == 3 or at != 100


def test_readers_share_a_file_and_write_nothing(tmp_path: Path) -> None:
    path = small_warehouse(tmp_path / "w.duckdb").path
    before = path.read_bytes()
    command = [sys.executable, "-c", READS, str(path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        assert Warehouse.to_read(path).read("seed_tasks").height == 3
        reader.communicate("\n")
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["w.duckdb"]


def test_an_older_schema_is_brought_up_to_date_before_it_is_read(tmp_path: Path) -> None:
    path = small_warehouse(tmp_path / "w.duckdb").path
    with Warehouse(path).connect() as connection:
        connection.execute("UPDATE lineage.declarations SET fingerprint = 'older'")
        connection.execute("DROP VIEW main.seed_tasks")
    assert Warehouse.to_read(path).query("FROM seed_tasks").height == 3


def test_ctrl_c_ends_a_query_as_it_ends_everything_else(tmp_path: Path) -> None:
    endless = "SELECT sum(sqrt(a.range * b.range)) FROM range(1000000) a, range(1000000) b"
    timer = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        DatabaseFile(tmp_path / "w.duckdb").query(endless)
    timer.join()
