"""A disk that fills up and a database that another process holds.

The run stops with one clear error and nothing half-written, or waits; with room or without the
holder it goes on, asks nothing twice, and ends with the content of a run that met no trouble.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from refine_dagster.home import Home
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import FIRST_ASSETS, QUICK, Child, at_call, run_command
from tests.pipeline.home_content import assert_sound, completion_keys, content

# How the system, DuckDB, SQLite and this project say it.
REASONS = ("No space left", "File too large", "disk I/O error", "disk is full")
DISK_MB = 48
FILLER = "filler"
# Where no file system can be mounted, files may not grow beyond this: less than any that matters,
# and more than a log.
LARGEST_FILE = 16384

# When the disk fills up: before which call of which function.
MOMENTS = {
    "Dagster opens its files": ("refine_dagster.run:_selected", 1),
    "rows are written": ("refine_dagster.warehouse.warehouse:_replace_rows", 1),
    "a record is committed": ("refine_dagster.warehouse.warehouse:write_record", 2),
    "a model is saved": ("refine_dagster.offline.base_model:_train", 1),
    "a checkpoint is published": (
        "refine_dagster.warehouse.checkpoints:CheckpointStore._publish",
        1,
    ),
    "completions are stored": ("refine_dagster.generation.completions:CompletionsStore._store", 2),
    "a SQL model is made": ("refine_dagster.sql_models.execution:_comment_on", 1),
}


@dataclass(frozen=True)
class Disk:
    """A file system that can be filled.

    Attributes:
        root: its folder.
        mounted: whether it has a size of its own; if not, a process may limit the size of its
            files instead.
    """

    root: Path
    mounted: bool

    def make_room(self) -> None:
        """Take away what filled it."""
        (self.root / FILLER).unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A small tmpfs where one can be mounted, a folder elsewhere."""
    root = tmp_path / "disk"
    root.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(root)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        yield Disk(root, mounted=False)
        return
    try:
        yield Disk(root, mounted=True)
    finally:
        subprocess.run(["umount", "--lazy", str(root)], check=True)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_disk_that_fills_up(
    first_assets: dict[str, Any], disk: Disk, tmp_path: Path, moment: str
) -> None:
    home = Home(disk.root / "home")
    function, call = MOMENTS[moment]
    first = run_command(
        home,
        tmp_path / "first.log",
        *FIRST_ASSETS,
        environment=QUICK,
        prepare=at_call,
        given=(function, call, "before", fill, disk),
    )
    assert first.end() == 1
    told = one_error(first)
    assert any(words in told for words in REASONS), told
    assert "room" in told or "space" in told
    disk.make_room()
    assert_sound(home)
    assert list(home.checkpoints.glob("*/.partial-*")) == []
    kept = completion_keys(home)
    again = run_command(home, tmp_path / "again.log", *FIRST_ASSETS, environment=QUICK)
    finish(again)
    assert_sound(home)
    assert content(home) == first_assets
    assert not kept & set(again.sent_keys())
    assert len(set(first.sent_keys()) - kept) <= max(map(len, first.batches()), default=0)


def fill(disk: Disk) -> None:
    """Leave no room on the disk; runs in the child."""
    if not disk.mounted:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (LARGEST_FILE, hard))
        return
    with (disk.root / FILLER).open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with contextlib.suppress(OSError):
                while True:
                    file.write(b"x" * size)


def test_a_database_held_for_a_while(first_assets: dict[str, Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    child = run_command(home, tmp_path / "run.log", *FIRST_ASSETS, environment=QUICK)
    with holding(home, child, after="base_model"):
        time.sleep(5)
        assert child.process.is_alive()
        released = time.time()
    finish(child)
    warehouse = Warehouse(home.warehouse)
    finished = warehouse.query("SELECT max(finished_at) FROM lineage.materializations").item()
    assert datetime.fromisoformat(finished).timestamp() > released
    assert content(home) == first_assets
    assert len(child.sent_keys()) == len(first_assets["completions"])


def test_a_database_held_for_ever(first_assets: dict[str, Any], tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    child = run_command(
        home,
        tmp_path / "run.log",
        *FIRST_ASSETS,
        environment=QUICK,
        prepare=wait_at_most,
        given=(2.0,),
    )
    with holding(home, child, after="base_model"):
        assert child.end(60) == 1
    told = one_error(child)
    assert f"(PID {os.getpid()})" in told
    assert "waited 2 s" in told
    assert "wait for that process, or stop it" in told
    assert_sound(home)
    kept = completion_keys(home)
    assert len(set(child.sent_keys()) - kept) <= max(map(len, child.batches()), default=0)
    again = run_command(home, tmp_path / "again.log", *FIRST_ASSETS, environment=QUICK)
    finish(again)
    assert not kept & set(again.sent_keys())
    assert content(home) == first_assets


def wait_at_most(seconds: float) -> None:
    """Shorten the wait for a held database; runs in the child."""
    import resources.warehouse

    resources.warehouse.LOCK_TIMEOUT_S = seconds


def test_a_damaged_database_is_not_taken_for_a_held_one(tmp_path: Path) -> None:
    path = tmp_path / "blocks and locks" / "warehouse.duckdb"
    path.parent.mkdir()
    path.write_bytes(b"no database at all" * 1000)
    began = time.monotonic()
    with pytest.raises(WarehouseError, match="cannot open the database"):
        Warehouse(path).query("SELECT 1")
    assert time.monotonic() - began < 5


@contextlib.contextmanager
def holding(home: Home, child: Child, *, after: str) -> Iterator[None]:
    """Hold the database of a running child from this process, once an asset is done."""
    assert child.wait_for(lambda lines: any(line.startswith(f"{after}: ") for line in lines))
    deadline = time.monotonic() + 300
    while True:
        try:
            connection = duckdb.connect(
                str(home.warehouse), config={"python_enable_replacements": False}
            )
            break
        except duckdb.IOException:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    try:
        yield
    finally:
        connection.close()


def finish(child: Child) -> None:
    """Wait until a child ends well."""
    assert child.end() == 0, child.log.read_text(encoding="utf-8")


def one_error(child: Child) -> str:
    """What a child that failed told the user: one error with its remedy, and no traceback."""
    text = child.log.read_text(encoding="utf-8")
    assert "Traceback" not in text, text
    assert text.count("error: ") == 1, text
    assert "Fix:" in text
    return text[text.index("error: ") :]
