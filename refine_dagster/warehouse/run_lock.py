"""One run at a time in a home: an advisory lock on `<home>/run.lock`.

Two runs at once would lose no row, but send the same requests twice and fail each other's commits.
The operating system drops the lock with the process, however that ends. The file names the holder;
a name in a file that is not locked is that of a run that was cut off, which the next holder
reports.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from refine_dagster.errors import RefineError

LOCK_FILE = "run.lock"
_POLL_S = 0.2
# A holder writes its name just after it took the lock.
_NAMED_WITHIN_S = 2.0

# (lock file, run) held by this process: a run may ask twice.
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
        root: the home's folder, made if it does not exist.
        run: Dagster's run id.
        say: called once with a sentence when another run is waited for.

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
    # Another thread than the one that took it may release it.
    lock = FileLock(path, thread_local=False, preserve_lock_file=True, poll_interval=_POLL_S)
    _acquire(lock, path, wait_s, say)
    try:
        cut_off = _holder(path)
        _write_holder(path, run)
        _held.add((path, run))
        try:
            yield cut_off
        finally:
            _held.discard((path, run))
            os.truncate(path, 0)
    finally:
        lock.release()


def _acquire(lock: FileLock, path: Path, wait_s: float, say: Callable[[str], None] | None) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_plain(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            holder = _holder(path)
            if wait_s and holder and say is not None:
                say(f"waiting up to {wait_s:g} s for {holder}")
            lock.acquire(timeout=wait_s if holder else max(wait_s, _NAMED_WITHIN_S))
    except Timeout as error:
        raise RunLockedError(
            f"{_holder(path) or 'another run'} works in this home"
            + (f", waited {wait_s:g} s" if wait_s else ""),
            where=str(path),
            fix="run again when it has ended, or wait for it: "
            f"`refine-dagster run --wait {max(600, round(wait_s) * 2)}`",
        ) from error
    except OSError as error:
        raise RunLockError(
            f"cannot be opened or locked: {error.strerror}",
            where=str(path),
            fix="set REFINE_HOME to a folder that can be written, has room, and has locks",
        ) from error


def _require_plain(path: Path) -> None:
    """Refuse a link: what it leads to would be overwritten."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise RunLockError(
            "is a link" if path.is_symlink() else "is no regular file",
            where=str(path),
            fix="see who put it there and remove it",
        )


def _holder(path: Path) -> Holder | None:
    """The holder that the file names; None where it is empty or was cut short."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except (ValueError, TypeError):
        return None


def _write_holder(path: Path, run: str) -> None:
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    note = json.dumps(asdict(Holder(os.getpid(), run, since))) + "\n"
    try:
        # In place: a replacement would not be locked.
        with open(os.open(path, os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW), "wb") as stream:
            stream.write(note.encode())
    except OSError as error:
        raise RunLockError(
            f"cannot be written: {error.strerror}", where=str(path), fix="make room on the disk"
        ) from error
