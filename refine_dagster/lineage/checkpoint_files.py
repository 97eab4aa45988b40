"""What lies in the folder of checkpoints, and its removal beside a transaction.

Links are never followed: what is behind one is not the home's. Only files and folders are expected
here; everything else is reported, and a prune changes nothing while it is there.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from refine_dagster.errors import RefineError, few_of_each_kind

# What a prune has taken out of its place and not deleted yet.
SET_ASIDE = ".pruned"
MANIFESTS = "manifests"
RESUME = "resume"


class CheckpointFilesError(RefineError):
    """The checkpoints' folder holds what a prune must not touch, or cannot delete."""


def foreign_entries(root: Path) -> list[tuple[Path, str]]:
    """Everything under `root`, or `root` itself, that is no file and no folder: path, what."""
    if root.is_symlink():
        return [(root, _kind(root))]
    found = []
    for folder, folders, files in os.walk(root):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
                found.append((path, _kind(path)))
    return found


def empty_folders(folder: Path) -> list[Path]:
    """Folders under a folder that hold nothing."""
    return [Path(name) for name, folders, files in os.walk(folder) if not (folders or files)]


def entries(root: Path) -> list[Path]:
    """What lies in the assets' folders under `root`, and what a prune has set aside."""
    inside: list[Path] = []
    if root.is_dir() and not root.is_symlink():
        for folder in sorted(root.iterdir()):
            if folder.name == SET_ASIDE:
                inside.append(folder)
            elif folder.is_dir() and not folder.is_symlink():
                inside += sorted(folder.iterdir())
    return inside


def require_own_files(root: Path) -> None:
    """Refuse a folder in which something is no file and no folder.

    Raises:
        CheckpointFilesError: there is such a thing; all are named.
    """
    foreign = foreign_entries(root)
    if foreign:
        lines = few_of_each_kind(
            (what.partition(" to ")[0], f"{path}: {what}") for path, what in foreign
        )
        raise CheckpointFilesError(
            "\n  ".join(
                ["a prune deletes files and folders of the home only, and here is", *lines]
            ),
            fix="see who put it there and remove it; nothing was changed",
        )


@contextmanager
def set_aside(paths: Sequence[Path], root: Path) -> Iterator[None]:
    """Take paths under `root` out of their places, and put them back if the block fails.

    Raises:
        CheckpointFilesError: one cannot be moved; all are back in their places.
    """
    aside = root / SET_ASIDE
    moved: list[tuple[Path, Path]] = []
    try:
        for number, path in enumerate(paths):
            aside.mkdir(exist_ok=True)
            place = aside / str(number)
            path.rename(place)
            moved.append((path, place))
        yield
        moved.clear()
    except OSError as error:
        raise _undeletable(error, root, "nothing was dropped") from error
    finally:
        for path, place in reversed(moved):
            place.rename(path)
        if aside.exists() and not any(aside.iterdir()):
            aside.rmdir()


def delete_set_aside(root: Path) -> None:
    """Delete what a prune has set aside.

    Raises:
        CheckpointFilesError: something of it cannot be deleted.
    """
    aside = root / SET_ASIDE
    try:
        if aside.exists():
            shutil.rmtree(aside)
    except OSError as error:
        raise _undeletable(error, root, "what it dropped is recorded") from error


def size(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    if not path.is_dir():
        return path.lstat().st_size
    return sum(
        Path(folder, name).lstat().st_size for folder, _, files in os.walk(path) for name in files
    )


def newest_change(path: Path) -> float:
    """When something in it was last written, in seconds since 1970."""
    inside = (Path(folder, name) for folder, _, files in os.walk(path) for name in files)
    folders = (Path(folder) for folder, _, _ in os.walk(path))
    return max(entry.lstat().st_mtime for entry in (path, *folders, *inside))


def _kind(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        dangling = "" if path.exists() else ", where nothing is"
        return f"a link to {os.readlink(path)}{dangling}"
    kinds = {stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((what for test, what in kinds.items() if test(mode)), "a device")


def _undeletable(error: OSError, root: Path, done: str) -> CheckpointFilesError:
    return CheckpointFilesError(
        f"cannot be deleted: {error.strerror}; {done}",
        where=str(error.filename or root),
        fix="make it and its folder writable, and prune again",
    )
