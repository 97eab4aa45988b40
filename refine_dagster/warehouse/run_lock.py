"""One run at a time in a home: an advisory lock on `<home>/run.lock`.

Commits are atomic and refuse inputs that changed meanwhile, so two runs at once would lose no row;
but they would pay for the same requests twice and fail each other's commits. A run therefore holds
this lock from its start to its end. The operating system drops it with the process, however that
ends. The file says who holds it; where it still names somebody and nobody holds it, that run was
cut off, and the next holder is told so.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from refine_dagster.errors import RefineError

LOCK_FILE = "run.lock"
_PAUSE_S = 0.2
# A holder writes its name just after it took the lock; until then there is nothing to report.
_NAMED_WITHIN_S = 2.0

# (lock file, run) held by this process: a run may ask again for what it has.
_held: set[tuple[Path, str]] = set()


class RunLockError(RefineError):
    """The lock cannot be taken: the home cannot be written, or has no locks."""


class RunLockedError(RunLockError):
    """Another run holds the home."""


@dataclass(frozen=True)
class Holder:
    """Who holds a home: process id, Dagster's run id, and since when (UTC, to the second)."""

    pid: int
    run: str
    since: str

    def __str__(self) -> str:
        return f"run {self.run} (process {self.pid}, since {self.since})"


@contextmanager
def holding_run_lock(
    root: Path,
    run: str,
    *,
    wait_s: float = 0.0,
    say: Callable[[str], None] | None = None,
) -> Iterator[Holder | None]:
    """Hold the home at `root` for a run; a run that holds it already goes on.

    Args:
        root: the home's folder, made if it is not there.
        run: Dagster's run id.
        wait_s: seconds to wait for another run to end.
        say: told once, in words, when there is something to wait for.

    Yields:
        The run that was cut off while it held the home, or None.

    Raises:
        RunLockedError: another run held the home for all of `wait_s`.
        RunLockError: the lock file cannot be made or written, or cannot be locked.
    """
    path = root.absolute() / LOCK_FILE
    if (path, run) in _held:
        yield None
        return
    descriptor = _opened(path)
    try:
        _wait_for(descriptor, path, wait_s, say)
        cut_off = _read(descriptor)
        _write(descriptor, path, run)
        _held.add((path, run))
        try:
            yield cut_off
        finally:
            _held.discard((path, run))
            os.ftruncate(descriptor, 0)
    finally:
        # Closing drops the lock.
        os.close(descriptor)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise RunLockError(
            f"cannot be opened: {error.strerror}",
            where=str(path),
            fix="set REFINE_HOME to a folder that can be written, or make room",
        ) from error


def _wait_for(
    descriptor: int, path: Path, wait_s: float, say: Callable[[str], None] | None
) -> None:
    began = time.monotonic()
    told = False
    while not _locked(descriptor, path):
        holder = _read(descriptor)
        waited = time.monotonic() - began
        if waited >= (wait_s if holder else max(wait_s, _NAMED_WITHIN_S)):
            raise RunLockedError(
                f"{holder or 'another run'} works in this home"
                + (f", waited {wait_s:g} s" if wait_s else ""),
                where=str(path),
                fix="run again when it has ended, or wait for it: "
                f"`refine-dagster run --wait {max(600, round(wait_s) * 2)}`",
            )
        if holder and say is not None and not told:
            say(f"waiting up to {wait_s:g} s for {holder}")
            told = True
        time.sleep(_PAUSE_S)


def _locked(descriptor: int, path: Path) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RunLockError(
            f"cannot be locked: {error.strerror}",
            where=str(path),
            fix="set REFINE_HOME to a folder on a file system that has locks",
        ) from error
    return True


def _read(descriptor: int) -> Holder | None:
    """Whom the file names; None where it is empty or was cut short."""
    text = os.pread(descriptor, 4096, 0)
    try:
        return Holder(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _write(descriptor: int, path: Path, run: str) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    text = json.dumps(asdict(Holder(os.getpid(), run, since))).encode() + b"\n"
    try:
        os.ftruncate(descriptor, 0)
        written = os.pwrite(descriptor, text, 0)
    except OSError as error:
        raise RunLockError(
            f"cannot be written: {error.strerror}", where=str(path), fix="make room on the disk"
        ) from error
    if written != len(text):
        raise RunLockError("cannot be written in full", where=str(path), fix="make room")
