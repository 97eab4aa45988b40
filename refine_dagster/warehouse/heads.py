"""Heads of the ledger, noted where whoever changes the home cannot change them.

The ledger's last digest stands for every entry before it. An older copy of the database, or one
whose last entries were cut off, has a chain without a fault; a head noted elsewhere shows it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import duckdb

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json


class WitnessError(RefineError):
    """The witness file cannot be read or written."""


@dataclass(frozen=True)
class Head:
    """An entry of the ledger: its digest, and that of the first entry, which names the home."""

    sequence: int
    digest: str
    first: str


@dataclass(frozen=True)
class NotedHead:
    """A digest that somebody noted, and where it stands."""

    digest: str
    noted_in: str


def read_head(connection: duckdb.DuckDBPyConnection) -> Head | None:
    """The last entry; None of an empty ledger."""
    found = connection.execute(
        "SELECT max(sequence), arg_max(digest, sequence), arg_min(digest, sequence) "
        "FROM lineage.materializations HAVING count(*) > 0"
    ).fetchall()
    return Head(*found[0]) if found else None


def open_witness(path: Path) -> None:
    """Make the witness file if there is none, so that a run fails before its work.

    Raises:
        WitnessError: the file cannot be appended to.
    """
    _append(path, b"")


def append_head(path: Path, head: Head, home: Path, details: Mapping[str, str]) -> None:
    """Append the head as a line of JSON, with the home's folder and further `details`.

    Raises:
        WitnessError: the file cannot be appended to.
    """
    line = canonical_json({**details, **asdict(head), "home": str(home)})
    _append(path, f"{line}\n".encode())


def heads_of(path: Path, home: Path, first: str | None) -> list[NotedHead]:
    """The heads that a witness file has of a home: of its folder, or of its first entry.

    Raises:
        WitnessError: the file cannot be read, or a line of it is no head.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        noted = [
            NotedHead(told["digest"], f"{path}, line {number}")
            for number, line in enumerate(lines, 1)
            for told in [json.loads(line)]
            if told["home"] == str(home) or told["first"] == first
        ]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise WitnessError(
            f"cannot be read: {error}",
            where=str(path),
            fix="name the file that runs append to in audit.witness",
        ) from error
    return noted


def _append(path: Path, line: bytes) -> None:
    try:
        with path.open("ab") as stream:
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise WitnessError(
            f"cannot be written: {error.strerror}",
            where=str(path),
            fix="set audit.witness to a file that can be appended to, or to null",
        ) from error
