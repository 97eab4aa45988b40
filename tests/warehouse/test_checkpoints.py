"""Checkpoints are found by manifest, verified byte for byte, and appear whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_dagster.warehouse.checkpoints import CheckpointError, CheckpointStore


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
