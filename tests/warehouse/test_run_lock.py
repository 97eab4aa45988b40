"""The run lock: held by one, waited for, dropped with the process, readable when left behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from refine_dagster.warehouse.run_lock import (
    LOCK_FILE,
    Holder,
    RunLockedError,
    RunLockError,
    holding_run_lock,
)

HOLD = """
import sys, time
from pathlib import Path
from refine_dagster.warehouse.run_lock import holding_run_lock
with holding_run_lock(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""
FULL_DISK = """
import resource, sys
from pathlib import Path
from refine_dagster.warehouse.run_lock import RunLockError, holding_run_lock
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    with holding_run_lock(Path(sys.argv[1]), "a"):
        print("held")
except RunLockError as error:
    print(error)
"""


def holder_process(home: Path, run: str) -> subprocess.Popen[str]:
    """A process that holds the lock when this returns."""
    command = [sys.executable, "-c", HOLD, str(home), run]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_another_run_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    with holding_run_lock(tmp_path, "first"):
        began = time.monotonic()
        with pytest.raises(RunLockedError) as told, holding_run_lock(tmp_path, "second"):
            pass
        assert time.monotonic() - began < 1
    assert f"run first (process {os.getpid()}, since 2" in str(told.value)
    assert re.search(r"refine-dagster run --wait \d+", str(told.value))
    assert str(tmp_path / LOCK_FILE) in str(told.value)


def test_it_is_free_again_after_the_run_however_that_ends(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), holding_run_lock(tmp_path, "first"):
        raise ZeroDivisionError
    assert (tmp_path / LOCK_FILE).read_bytes() == b""
    with holding_run_lock(tmp_path, "second") as cut_off:
        assert cut_off is None


def test_the_run_that_holds_it_goes_on(tmp_path: Path) -> None:
    with holding_run_lock(tmp_path, "first"):
        with holding_run_lock(tmp_path, "first"):
            pass
        with pytest.raises(RunLockedError), holding_run_lock(tmp_path, "second"):
            pass


def test_homes_do_not_share_a_lock(tmp_path: Path) -> None:
    with holding_run_lock(tmp_path / "a", "first"), holding_run_lock(tmp_path / "b", "second"):
        assert (tmp_path / "a" / LOCK_FILE).is_file()


def test_a_run_waits_for_another_and_says_so_once(tmp_path: Path) -> None:
    said: list[str] = []
    release = threading.Event()
    holding = threading.Event()

    def hold() -> None:
        with holding_run_lock(tmp_path, "first"):
            holding.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    threading.Timer(1.0, release.set).start()
    with holding_run_lock(tmp_path, "second", wait_s=30, say=said.append):
        assert release.is_set()
    thread.join()
    (line,) = said
    assert line.startswith("waiting up to 30 s for run first (process ")


def test_a_wait_has_an_end(tmp_path: Path) -> None:
    with holding_run_lock(tmp_path, "first"):
        began = time.monotonic()
        with (
            pytest.raises(RunLockedError, match=r"waited 0\.6 s"),
            holding_run_lock(tmp_path, "second", wait_s=0.6),
        ):
            pass
        assert 0.6 <= time.monotonic() - began < 2


def test_a_killed_process_leaves_it_free_and_is_named(tmp_path: Path) -> None:
    process = holder_process(tmp_path, "first")
    with pytest.raises(RunLockedError, match=f"process {process.pid},"):
        holding_run_lock(tmp_path, "second").__enter__()
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    with holding_run_lock(tmp_path, "second") as cut_off:
        assert isinstance(cut_off, Holder)
        assert (cut_off.run, cut_off.pid) == ("first", process.pid)
    with holding_run_lock(tmp_path, "third") as cut_off:
        assert cut_off is None


@pytest.mark.parametrize("left", ['{"pid": 1', "", '{"pid": 1}', "[]", "\x00\x00"])
def test_what_a_kill_left_half_written_is_overwritten(tmp_path: Path, left: str) -> None:
    (tmp_path / LOCK_FILE).write_text(left, encoding="utf-8")
    with holding_run_lock(tmp_path, "second") as cut_off:
        assert cut_off is None
        with pytest.raises(RunLockedError, match="run second"):
            holding_run_lock(tmp_path, "third").__enter__()


def test_a_home_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with (
        pytest.raises(RunLockError, match="cannot be opened") as told,
        holding_run_lock(tmp_path / "file" / "home", "first"),
    ):
        pass
    assert "REFINE_HOME" in str(told.value)


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine", encoding="utf-8")
    home = tmp_path / "home"
    home.mkdir()
    (home / LOCK_FILE).symlink_to(outside)
    with pytest.raises(RunLockError, match="is a link"), holding_run_lock(home, "a"):
        pass
    assert outside.read_text(encoding="utf-8") == "mine"


def test_a_full_disk(tmp_path: Path) -> None:
    """A process that may write no byte to any file stands in for it."""
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert "cannot be written" in told
    assert "make room" in told
    with holding_run_lock(tmp_path, "second"):
        pass
