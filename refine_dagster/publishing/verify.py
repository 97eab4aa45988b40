"""Checks an exported dataset: files, rows, lineage, ledger, signature.

    python verify.py [FOLDER] [--key PUBLIC_KEY.pem]

Needs Python alone; for a signature, the package `cryptography`. Prints what was checked, and what
is wrong; the exit code is 1 if anything is. Without `--key` a signature is checked with the public
key that lies in the folder, which shows that the folder is whole, not who signed it.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SUMS, SIGNATURE, PUBLIC_KEY = "SHA256SUMS", "SHA256SUMS.sig", "public_key.pem"
# Made after the sums.
UNSUMMED = {SUMS, SIGNATURE, PUBLIC_KEY}
SEEDS = "seed_tasks"
GENESIS = "0" * 64


def digest_of(value: Any) -> str:
    """sha256 of a value's JSON with sorted keys and no spaces."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def check_sums(folder: Path) -> Iterator[str]:
    """Every file has its sum, and every sum its file."""
    named = {}
    for line in (folder / SUMS).read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        named[name] = digest
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    } - UNSUMMED
    for name in sorted(there - named.keys()):
        if not name.startswith(".git"):
            yield f"{name}: is not in {SUMS}"
    for name, digest in named.items():
        if name not in there:
            yield f"{name}: is missing"
        elif hashlib.sha256((folder / name).read_bytes()).hexdigest() != digest:
            yield f"{name}: is not the file that was summed"


def read_lines(path: Path) -> list[Any]:
    """The values of a JSON lines file."""
    text = path.read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def data_rows(path: Path) -> list[dict[str, Any]] | None:
    """The rows of a data file; None of Parquet, which Python alone does not read."""
    if path.suffix == ".jsonl":
        return read_lines(path)
    if path.suffix == ".csv":
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    return None


def check_rows(folder: Path, lines: list[dict[str, Any]]) -> Iterator[str]:
    """Every row of the data is what lineage says, and its id is the hash of its content."""
    files: dict[str, list[dict[str, Any]] | None] = {}
    counts: dict[str, int] = {}
    for line in lines:
        name = line["file"]
        counts[name] = counts.get(name, 0) + 1
        if name not in files:
            files[name] = data_rows(folder / name)
        rows, place = files[name], f"{name}, row {line['line']}"
        for source in line["sources"]:
            made = digest_of([source["slice"], source["content"], source["parents"]])[:32]
            if made != source["row_id"]:
                yield f"{place}: content and parents do not give the id {source['row_id']}"
        if rows is None:
            continue
        if line["line"] >= len(rows):
            yield f"{place}: is missing"
            continue
        row = rows[line["line"]]
        if name.endswith(".jsonl") and digest_of(row) != line["written"]:
            yield f"{place}: is not the row that was written"
        if line["texts"]:
            shown = "\n".join(texts(row))
            for source in line["sources"]:
                for column in ("instruction", "input", "output"):
                    # A prompt may put a full stop behind a text, and cuts blanks around it.
                    if source["content"][column].strip() not in shown:
                        yield f"{place}: does not show the {column} of {source['row_id']}"
    for name, rows in files.items():
        if rows is not None and len(rows) != counts[name]:
            yield f"{name}: has {len(rows)} rows, and lineage names {counts[name]}"


def texts(value: Any) -> Iterator[str]:
    """Every text within a row."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from texts(part)
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)


def check_ancestors(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Every parent is there, and every row of the data descends from a seed."""
    known = {
        (line["slice"], line["row_id"]): line["parents"]
        for line in lines
        if line["kind"] == "ancestor"
    }
    sources = [source for line in lines if line["kind"] == "data" for source in line["sources"]]
    reaches: dict[tuple[str, str], bool] = {name: name[0] == SEEDS for name in known}
    children: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, parents in known.items():
        for parent in parents:
            above = (parent["asset"], parent["row_id"])
            children.setdefault(above, []).append(name)
            if above not in known:
                yield f"{name[0]} {name[1]}: its parent {above[0]} {above[1]} is missing"
    waiting = [name for name, reached in reaches.items() if reached]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if not reaches[child]:
                reaches[child] = True
                waiting.append(child)
    for source in sources:
        named = [(parent["asset"], parent["row_id"]) for parent in source["parents"]]
        for name in named:
            if name not in known:
                yield f"row {source['row_id']}: its parent {name[0]} {name[1]} is missing"
        if not any(reaches.get(name, False) for name in named):
            yield f"row {source['row_id']}: no ancestor is a seed"


def check_ledger(folder: Path, lines: list[dict[str, Any]]) -> Iterator[str]:
    """Every line gives its digest and is linked to the one before; the last is the one named."""
    previous, due = GENESIS, 1
    for entry in lines:
        line = entry["line"]
        name = f"ledger, line {line['sequence']}"
        covered = {column: value for column, value in line.items() if column != "digest"}
        if line["sequence"] != due:
            yield f"{name}: line {due} is missing"
        elif line["previous_digest"] != previous:
            yield f"{name}: is not linked to the one before it"
        if digest_of([covered, entry["attached"]]) != line["digest"]:
            yield f"{name}: does not give its digest"
        previous, due = line["digest"], line["sequence"] + 1
    named = json.loads((folder / "refine-dagster.json").read_text(encoding="utf-8"))["ledger"]
    if named != {"sequence": due - 1, "digest": previous}:
        yield "ledger: its last line is not the one that refine-dagster.json names"


def check_signature(folder: Path, key: Path | None) -> Iterator[str]:
    """The signature of the sums, if there is one or a key was given."""
    if not (folder / SIGNATURE).is_file():
        if key is not None:
            yield "there is no signature"
        return
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    public = load_pem_public_key((key or folder / PUBLIC_KEY).read_bytes())
    if not isinstance(public, Ed25519PublicKey):
        yield "the public key is no ed25519 key"
        return
    try:
        signature = bytes.fromhex((folder / SIGNATURE).read_text(encoding="ascii").strip())
        public.verify(signature, (folder / SUMS).read_bytes())
    except (InvalidSignature, ValueError):
        yield "the signature is not of these sums by this key"


def main() -> int:
    """Check a folder; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="Check an exported dataset.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parent)
    parser.add_argument("--key", type=Path, help="the public key of whoever should have signed it")
    given = parser.parse_args()
    folder: Path = given.folder
    lineage, ledger = read_lines(folder / "lineage.jsonl"), read_lines(folder / "ledger.jsonl")
    data = [line for line in lineage if line["kind"] == "data"]
    wrong = [
        *check_sums(folder),
        *check_rows(folder, data),
        *check_ancestors(lineage),
        *check_ledger(folder, ledger),
        *check_signature(folder, given.key),
    ]
    for line in wrong:
        print(line)
    signed = "signed" if (folder / SIGNATURE).is_file() else "not signed"
    result = f"{len(wrong)} things are wrong" if wrong else "all is as it was written"
    ancestors = len(lineage) - len(data)
    print(
        f"{len(data)} rows, {ancestors} ancestors, {len(ledger)} ledger lines, {signed}: {result}"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
