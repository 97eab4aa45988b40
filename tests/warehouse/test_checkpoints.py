"""Checkpoints are found by manifest, verified byte for byte, and appear whole or not at all."""

from __future__ import annotations

import itertools
import os
from pathlib import Path
from typing import Any

import pytest

from refine_dagster import hashing
from refine_dagster.hashing import folder_files
from refine_dagster.warehouse.checkpoints import CheckpointError, CheckpointStore, hash_files
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.warehouse import new_warehouse


class Trainer:
    def __init__(self, weights: str) -> None:
        self.weights = weights
        self.runs = 0

    def __call__(self, out: Path) -> dict[str, Any]:
        self.runs += 1
        (out / "weights").mkdir()
        (out / "weights" / "w.bin").write_text(self.weights)
        return {"loss": 0.5}


def test_same_manifest_is_reused_and_verified(tmp_path: Path) -> None:
    store, train = CheckpointStore(tmp_path), Trainer("abc")
    first = store.train_or_reuse("model", {"seed": 1}, train)
    again = store.train_or_reuse("model", {"seed": 1}, train)
    assert train.runs == 1
    assert (first.reused, again.reused) == (False, True)
    assert again.record == {"loss": 0.5}
    assert first.content_hash == again.content_hash
    assert first.path.name == first.content_hash[:16]
    (first.path / "weights" / "w.bin").write_text("abd")
    assert not store.is_whole("model", first.content_hash)
    mended = store.train_or_reuse("model", {"seed": 1}, train)
    assert train.runs == 2
    assert not mended.reused
    assert store.is_whole("model", first.content_hash)


@pytest.mark.parametrize("spoil", ["a byte", "a byte, and the times of before", "a file more"])
def test_a_changed_checkpoint_is_not_used(tmp_path: Path, spoil: str) -> None:
    store = CheckpointStore(tmp_path)
    made = store.train_or_reuse("model", {"seed": 1}, Trainer("abc"))
    file = made.path / "weights" / "w.bin"
    long_ago = 1_000_000_000
    os.utime(file, (long_ago, long_ago))
    assert store.verified_folder("model", made.content_hash) == made.path
    if spoil == "a file more":
        (made.path / "more.bin").write_text("x")
    else:
        file.write_text("abd")
        if spoil != "a byte":
            os.utime(file, (long_ago, long_ago))
    with pytest.raises(CheckpointError, match="not those that were registered"):
        store.verified_folder("model", made.content_hash)


def test_a_hash_is_remembered_until_the_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reads = tmp_path / "w.bin", itertools.count(1)
    monkeypatch.setattr(hashing, "file_hash", lambda path: str(next(reads)))
    file.write_text("abc")
    assert [hashing.unchanged_file_hash(file) for _ in range(3)] == ["1", "2", "3"]
    monkeypatch.setattr(hashing, "_SETTLED_NS", -1)
    assert [hashing.unchanged_file_hash(file) for _ in range(3)] == ["4", "4", "4"]
    file.write_text("abcd")
    assert hashing.unchanged_file_hash(file) == "5"


def test_a_note_in_the_folder_is_not_believed(tmp_path: Path) -> None:
    """Other weights under their own hash, and a note that names them: trained again."""
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    store = CheckpointStore(tmp_path, warehouse)
    made = store.train_or_reuse("model", {"seed": 1}, Trainer("abc"))
    (made.path / "weights" / "w.bin").write_text("abd")
    planted = hash_files(folder_files(made.path))
    made.path.rename(store.path_of("model", planted))
    note = tmp_path / "model" / "manifests" / f"{made.manifest_hash}.json"
    note.write_text(note.read_text().replace(made.content_hash, planted))
    assert store.find("model", {"seed": 1}) is None
    again = store.train_or_reuse("model", {"seed": 1}, Trainer("abc"))
    assert (again.reused, again.content_hash) == (False, made.content_hash)
    other_process = CheckpointStore(tmp_path, Warehouse(warehouse.path))
    assert other_process.train_or_reuse("model", {"seed": 1}, Trainer("abc")).reused
    assert CheckpointStore(tmp_path).find("model", {"seed": 1}) is None


def test_other_manifest_same_bytes_share_a_folder(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    one = store.train_or_reuse("model", {"seed": 1}, Trainer("abc"))
    other = store.train_or_reuse("model", {"seed": 2}, Trainer("abc"))
    third = store.train_or_reuse("model", {"seed": 3}, Trainer("xyz"))
    assert one.path == other.path != third.path
    assert one.manifest_hash != other.manifest_hash


def test_failed_training_leaves_no_folder(tmp_path: Path) -> None:
    def fails(out: Path) -> dict[str, Any]:
        (out / "half").write_text("written")
        raise RuntimeError("diverged")

    store = CheckpointStore(tmp_path)
    with pytest.raises(RuntimeError, match="diverged"):
        store.train_or_reuse("model", {"seed": 1}, fails)
    assert list((tmp_path / "model").iterdir()) == []
    assert store.find("model", {"seed": 1}) is None


def test_unwritable_root_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(CheckpointError, match="cannot write"):
        CheckpointStore(tmp_path / "file").train_or_reuse("model", {}, Trainer("abc"))


def test_full_disk_is_one_clear_error(tmp_path: Path) -> None:
    def fills(out: Path) -> dict[str, Any]:
        # /dev/full answers every write as a full disk does.
        with Path("/dev/full").open("w") as stream:
            stream.write("x" * 10_000)
        return {}

    store = CheckpointStore(tmp_path)
    with pytest.raises(CheckpointError, match="disk is full"):
        store.train_or_reuse("model", {"seed": 1}, fills)
    assert list((tmp_path / "model").iterdir()) == []


def test_a_training_s_state_outlives_it_until_one_is_published(tmp_path: Path) -> None:
    store, manifest = CheckpointStore(tmp_path), {"seed": 1}
    state = store.resume_folder("model", manifest) / "state"

    def fails(out: Path) -> dict[str, Any]:
        state.parent.mkdir(parents=True)
        state.write_text("step 4")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        store.train_or_reuse("model", manifest, fails)
    assert state.read_text() == "step 4"
    assert store.resume_folder("model", {"seed": 2}) != state.parent
    store.train_or_reuse("model", manifest, Trainer("abc"))
    assert not state.parent.parent.exists()
