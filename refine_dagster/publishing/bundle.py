"""What makes an exported dataset checkable by others: lineage, ledger, sums, and a signature.

`lineage.jsonl` has a line for each row of the data, with what its content id is the hash of, and a
line for each ancestor, with its parents. Ancestors' contents stay in the home: seeds are named, not
shown. `ledger.jsonl` has the ledger's lines, each with what its digest covers. `verify.py` is a
program that checks all of it, and needs nothing of this project.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files as packaged
from pathlib import Path
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json, folder_files, json_hash
from refine_dagster.publishing.dataset_rows import ExportRow
from refine_dagster.warehouse.rows import Row, named_content
from refine_dagster.warehouse.tables import slice_of
from refine_dagster.warehouse.warehouse import Warehouse

LINEAGE, LEDGER, VERIFY = "lineage.jsonl", "ledger.jsonl", "verify.py"
SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "public_key.pem"


def write_bundle(
    folder: Path,
    warehouse: Warehouse,
    parts: Mapping[str, Sequence[ExportRow]],
    files: Mapping[str, str],
    *,
    texts: bool,
) -> None:
    """Write lineage, ledger and the program into the folder of an export.

    Args:
        parts: split -> its rows; files: split -> its data file.
        texts: whether every row of the data shows its instruction, input and output.
    """
    with warehouse.held():
        lines = [*_data_lines(parts, files, texts), *_ancestor_lines(warehouse, parts)]
        ledger = _ledger_lines(warehouse)
    for name, written in ((LINEAGE, lines), (LEDGER, ledger)):
        text = "".join(canonical_json(line) + "\n" for line in written)
        (folder / name).write_text(text, encoding="utf-8")
    program = (packaged("refine_dagster.publishing") / VERIFY).read_bytes()
    (folder / VERIFY).write_bytes(program)


def write_sums(folder: Path) -> None:
    """Write the sha256 of every file, as `sha256sum --check` reads it; not of a signature."""
    aside = {SUMS, SIGNATURE, PUBLIC_KEY}
    sums = folder_files(folder)
    lines = (f"{digest}  {name}\n" for name, digest in sums.items() if name not in aside)
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def sign(folder: Path, key: Path) -> None:
    """Sign the sums with an ed25519 private key in PEM, and write the public key beside.

    Raises:
        RefineError: the package `cryptography` is absent, or the key cannot be read.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError as error:
        raise RefineError(
            "signing needs the package cryptography",
            where="--sign",
            fix="install `refine-dagster[sign]`",
        ) from error
    try:
        private = serialization.load_pem_private_key(key.expanduser().read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise RefineError(
            f"the key cannot be read: {error}",
            where=str(key),
            fix="make one with `openssl genpkey -algorithm ed25519 -out key.pem`",
        ) from error
    if not isinstance(private, Ed25519PrivateKey):
        raise RefineError(
            "is no ed25519 key",
            where=str(key),
            fix="make one with `openssl genpkey -algorithm ed25519 -out key.pem`",
        )
    signature = private.sign((folder / SUMS).read_bytes())
    (folder / SIGNATURE).write_text(signature.hex() + "\n", encoding="ascii")
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    (folder / PUBLIC_KEY).write_bytes(public)


def _data_lines(
    parts: Mapping[str, Sequence[ExportRow]], files: Mapping[str, str], texts: bool
) -> Iterable[dict[str, Any]]:
    for split, rows in parts.items():
        for number, row in enumerate(rows):
            yield {
                "kind": "data",
                "file": files[split],
                "line": number,
                "written": json_hash(row.values),
                "texts": texts,
                "sources": [
                    {
                        "row_id": source["row_id"],
                        "slice": name,
                        "content": named_content(slice_of(name).table, source),
                        "parents": source["parents"],
                    }
                    for name, source in row.sources
                ],
            }


def _ancestor_lines(
    warehouse: Warehouse, parts: Mapping[str, Sequence[ExportRow]]
) -> Iterable[dict[str, Any]]:
    """Every row above those of the data once, nearest first."""
    waiting: list[tuple[str, str]] = sorted(
        {
            (parent["asset"], parent["row_id"])
            for rows in parts.values()
            for row in rows
            for _, source in row.sources
            for parent in source["parents"]
        }
    )
    seen = set(waiting)
    while waiting:
        above: set[tuple[str, str]] = set()
        for name, row in _rows_of(warehouse, waiting):
            yield {
                "kind": "ancestor",
                "row_id": row["row_id"],
                "slice": name,
                "parents": row["parents"],
            }
            above |= {(parent["asset"], parent["row_id"]) for parent in row["parents"]}
        waiting = sorted(above - seen)
        seen |= above


def _rows_of(warehouse: Warehouse, named: Sequence[tuple[str, str]]) -> Iterable[tuple[str, Row]]:
    by_slice: dict[str, list[str]] = {}
    for name, row_id in named:
        by_slice.setdefault(name, []).append(row_id)
    for name, ids in by_slice.items():
        found = warehouse.query(
            "SELECT row_id, any_value(parents) AS parents "
            f"FROM history.{slice_of(name).table.name} "
            "WHERE row_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY row_id ORDER BY row_id",
            [ids],
        )
        for row in found.to_dicts():
            yield name, row


def _ledger_lines(warehouse: Warehouse) -> list[dict[str, Any]]:
    """The ledger's lines with what is attached to each, as `warehouse.ledger` hashes them."""
    attached: dict[int, dict[str, list[list[Any]]]] = {}
    columns = {
        "inputs": "asset, data_version",
        "requests": "role, asked, reused, sent, prompt_tokens, completion_tokens, seconds",
        "checkpoints": "asset, content_hash, manifest_hash",
    }
    for name, listed in columns.items():
        rows = warehouse.query(f"SELECT sequence, {listed} FROM lineage.{name} ORDER BY ALL")
        for sequence, *values in rows.rows():
            of_line = attached.setdefault(sequence, {})
            of_line.setdefault(name, []).append(values)
    lines = warehouse.query("SELECT * FROM lineage.materializations ORDER BY sequence").to_dicts()
    empty: dict[str, list[list[Any]]] = {name: [] for name in columns}
    return [
        {"line": line, "attached": {**empty, **attached.get(line["sequence"], {})}}
        for line in lines
    ]
