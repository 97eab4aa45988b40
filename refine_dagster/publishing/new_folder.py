"""A folder that is written aside and then moved: whole, or as it was before.

Beside what it holds, such a folder has a file `refine-dagster.json` that says what it is and names
the files with their hashes. A folder without that file was made by somebody else, and is never
replaced.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.hashing import folder_files, readable_json
from refine_dagster.home import Home

MANIFEST = "refine-dagster.json"


class FolderError(RefineError):
    """A folder cannot be written where it was asked for."""


@contextmanager
def new_folder(to: Path, home: Home, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a folder to fill; at the end it is moved to `to`.

    After an error or a kill, `to` is as it was.

    Args:
        overwrite: replace a folder that this function made; no other is replaced.

    Raises:
        FolderError: `to` is a file, lies in the home, or holds something that may not be replaced;
            or it cannot be written.
    """
    target = whole_path(to)
    _require_free(target, home, overwrite)
    partial = target.with_name(f".{target.name}.{os.getpid()}.new")
    former = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        partial.mkdir(parents=True)
        yield partial
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as stream:
                    os.fsync(stream.fileno())
        if target.exists():
            target.rename(former)
        partial.rename(target)
    except OSError as error:
        if former.exists() and not target.exists():
            former.rename(target)
        raise FolderError(
            f"cannot write: {error.strerror or error}",
            where=str(error.filename or target),
            fix="name a place that can be written to and has room",
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(former, ignore_errors=True)


def whole_path(path: Path) -> Path:
    """An absolute path, `~` read as the user's folder."""
    return path.expanduser().resolve()


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write and return what the folder is: `facts`, and every file with its sha256."""
    files = {name: sha for name, sha in folder_files(folder).items() if name != MANIFEST}
    manifest = {**facts, "files": files}
    (folder / MANIFEST).write_text(readable_json(manifest), encoding="utf-8")
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder that was made here; None of any other."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return manifest if isinstance(manifest, dict) and "files" in manifest else None


def _require_free(target: Path, home: Home, overwrite: bool) -> None:
    root = home.root.resolve()
    if target == root or root in target.parents or target in root.parents:
        raise FolderError(
            "is the home, lies in it or has it inside",
            where=str(target),
            fix="name a folder apart from the home",
        )
    if not target.exists():
        return
    if not target.is_dir():
        raise FolderError("is a file", where=str(target), fix="name a folder")
    if not any(target.iterdir()):
        target.rmdir()
        return
    if read_manifest(target) is None:
        raise FolderError(
            "the folder holds files that are no export of this project",
            where=str(target),
            fix="name a folder that does not exist yet",
        )
    if not overwrite:
        raise FolderError(
            "the folder exists", where=str(target), fix="name another, or add --overwrite"
        )
