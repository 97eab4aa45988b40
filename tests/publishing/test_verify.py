"""The program in an exported folder finds what was changed, and needs nothing of this project."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.publishing.bundle import sign, write_sums
from refine_dagster.publishing.dataset_folder import DatasetOptions, export_dataset_folder
from refine_dagster.publishing.layouts import LayoutName
from tests.publishing.conftest import verified


def exported(home: Home, layout: LayoutName = "alpaca", **options: Any) -> Path:
    to = home.root.parent / "out"
    return export_dataset_folder(home, layout, to, DatasetOptions(**options)).folder


def private_key(folder: Path, name: str = "key.pem") -> Path:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / name).write_bytes(pem)
    return folder / name


@pytest.mark.parametrize(
    "layout", ["alpaca", "messages", "prompt-completion", "preference", "csv", "hf"]
)
def test_what_was_written_is_in_order(small_home: Home, layout: LayoutName) -> None:
    (line,) = verified(exported(small_home, layout))
    assert line.endswith("all is as it was written")
    assert ("1 rows" if layout == "preference" else "2 rows") in line


def change_lines(path: Path, change: Callable[[list[Any]], None]) -> None:
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    change(lines)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")


def edit_output(lines: list[Any]) -> None:
    lines[0]["output"] = "something else"


def drop_row(lines: list[Any]) -> None:
    del lines[-1]


def edit_content(lines: list[Any]) -> None:
    lines[0]["sources"][0]["content"]["reward"] += 1


def drop_seed(lines: list[Any]) -> None:
    (at, *_) = [n for n, line in enumerate(lines) if line.get("slice") == "seed_tasks"]
    del lines[at]


def drop_parents(lines: list[Any]) -> None:
    for line in lines:
        if line["kind"] == "ancestor":
            line["parents"] = []


def edit_ledger(lines: list[Any]) -> None:
    lines[1]["line"]["rows_total"] += 1


def drop_line(lines: list[Any]) -> None:
    del lines[1]


@pytest.mark.parametrize(
    ("file", "change", "found"),
    [
        ("data/train.jsonl", edit_output, "is not the row that was written"),
        ("data/train.jsonl", drop_row, "is missing"),
        ("lineage.jsonl", edit_content, "do not give the id"),
        ("lineage.jsonl", drop_seed, "its parent seed_tasks"),
        ("ledger.jsonl", edit_ledger, "does not give its digest"),
        ("ledger.jsonl", drop_line, "line 2 is missing"),
    ],
)
def test_a_change_is_found_even_with_new_sums(
    small_home: Home, file: str, change: Callable[[list[Any]], None], found: str
) -> None:
    folder = exported(small_home)
    change_lines(folder / file, change)
    assert any("is not the file that was summed" in line for line in verified(folder))
    write_sums(folder)
    assert any(found in line for line in verified(folder))


def test_a_row_without_a_seed_is_found(small_home: Home) -> None:
    # Rows of the dataset were shown seeds themselves; the worse instance of a pair was not.
    folder = exported(small_home, "preference")
    change_lines(folder / "lineage.jsonl", drop_parents)
    assert any("no ancestor is a seed" in line for line in verified(folder))


def test_files_more_and_fewer_are_found(small_home: Home) -> None:
    folder = exported(small_home)
    (folder / "more.txt").write_text("x", encoding="utf-8")
    (folder / "README.md").unlink()
    lines = verified(folder)
    assert "more.txt: is not in SHA256SUMS" in lines
    assert "README.md: is missing" in lines


def test_sums_are_those_of_sha256sum(small_home: Home) -> None:
    folder = exported(small_home)
    for line in (folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines():
        digest, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest
    listed = subprocess.run(
        ["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=folder, check=False
    )
    assert listed.returncode == 0


def test_a_signature_names_its_key(small_home: Home, tmp_path: Path) -> None:
    folder = exported(small_home, key=private_key(tmp_path))
    public = tmp_path / "public.pem"
    public.write_bytes((folder / "public_key.pem").read_bytes())
    (line,) = verified(folder, "--key", str(public))
    assert " signed" in line
    forged = private_key(tmp_path, "forger.pem")
    (folder / "README.md").write_text("another card", encoding="utf-8")
    write_sums(folder)
    assert "the signature is not of these sums by this key" in verified(folder)
    sign(folder, forged)
    assert len(verified(folder)) == 1
    assert "the signature is not of these sums by this key" in verified(
        folder, "--key", str(public)
    )


def test_a_key_that_cannot_sign_is_refused(small_home: Home, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("no key", encoding="utf-8")
    with pytest.raises(RefineError, match="openssl genpkey"):
        exported(small_home, key=tmp_path / "key.pem")
    assert not (tmp_path / "out").exists()


def test_no_seed_is_shown(small_home: Home) -> None:
    lineage = (exported(small_home) / "lineage.jsonl").read_text(encoding="utf-8")
    assert "seed_tasks" in lineage
    assert "Reverse the order of the words." not in lineage
