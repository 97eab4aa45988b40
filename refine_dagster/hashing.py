"""Content ids: equal content has one name, on every machine, for ever.

A row's id is the hash of everything that made it: its asset, its payload and the ids of its
parents. Ids therefore form a Merkle graph: a row whose ancestor changed is another row, and a clean
rebuild gives the very same ids.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ID_DIGITS = 32
# A file written within one tick of the clock after it was hashed may look as before.
_SETTLED_NS = 2_000_000_000
# State of a file -> its hash, as hashed by this process.
_hashes: dict[tuple[int, ...], str] = {}


def canonical_json(value: Any) -> str:
    """JSON with sorted keys, no spaces, and text as it is; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def readable_json(value: Any) -> str:
    """JSON with sorted keys, indented, ending in a line break; equal values give equal text."""
    return json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n"


def text_hash(text: str) -> str:
    """sha256 of a text in UTF-8, 64 hex digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_hash(value: Any) -> str:
    """sha256 of a value's canonical JSON, 64 hex digits."""
    return text_hash(canonical_json(value))


def content_id(kind: str, *parts: Any) -> str:
    """The name of a piece of content: 32 hex digits (128 bits) of sha256.

    Args:
        kind: what is named, usually an asset's key; different kinds never share an id.
        parts: JSON values that together are the content.
    """
    return json_hash([kind, *parts])[:ID_DIGITS]


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def unchanged_file_hash(path: Path) -> str:
    """`file_hash`, computed once in this process for as long as the file stays as it is.

    A change shows in size, inode, or the time of the last change, which no program can set back.
    """
    before = _state(path)
    settled = time.time_ns() - before[-1] > _SETTLED_NS
    known = _hashes.get(before) if settled else None
    if known is not None:
        return known
    sha256 = file_hash(path)
    if settled and _state(path) == before:
        _hashes[before] = sha256
    return sha256


def _state(path: Path) -> tuple[int, ...]:
    found: os.stat_result = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def folder_files(folder: Path, hashed: Callable[[Path], str] = file_hash) -> dict[str, str]:
    """Relative path -> sha256 of every file under `folder`, in path order."""
    return {
        path.relative_to(folder).as_posix(): hashed(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
