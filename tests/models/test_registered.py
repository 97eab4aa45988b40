"""Whatever is loaded from a checkpoint is loaded from the files that were registered."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.config.learning import JudgeConfig
from refine_dagster.models.language_model import registered_base, registered_policy
from refine_dagster.refine_af.feedback import open_judge
from refine_dagster.teams_rl.evolution import registered_instructor
from refine_dagster.warehouse.checkpoints import CheckpointError, CheckpointStore

FILES = ("adapter_model.safetensors", "heads.safetensors", "config.json", "record.json")
NOTHING: Any = None


def base(store: CheckpointStore, row: dict[str, Any]) -> None:
    registered_base(store, row)


def policy(store: CheckpointStore, row: dict[str, Any]) -> None:
    registered_policy(store, "rl_policy_checkpoint", row["checkpoint_hash"], NOTHING)


def judge(store: CheckpointStore, row: dict[str, Any]) -> None:
    with open_judge(row, store, NOTHING, JudgeConfig(), NOTHING):
        raise AssertionError


def instructor(store: CheckpointStore, row: dict[str, Any]) -> None:
    registered_instructor(row, store, TeamsRLConfig(), "a seed")


USES = {
    "base_model": base,
    "rl_policy_checkpoint": policy,
    "feedback_judge": judge,
    "instructor_policy": instructor,
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("asset", USES)
def test_a_flipped_byte_is_seen_before_anything_is_loaded(
    tmp_path: Path, asset: str, name: str
) -> None:
    def train(out: Path) -> dict[str, Any]:
        for file in FILES:
            (out / file).write_bytes(b"weights")
        return {"loss": 0.5}

    store = CheckpointStore(tmp_path)
    made = store.train_or_reuse(asset, {"seed": 1}, train)
    row = {
        "checkpoint_hash": made.content_hash,
        "fingerprint": "0" * 64,
        "kind": "offline",
        "algorithm": "ppo",
    }
    file = made.path / name
    data = bytearray(file.read_bytes())
    data[0] ^= 1
    file.write_bytes(data)
    use: Callable[[CheckpointStore, dict[str, Any]], None] = USES[asset]
    with pytest.raises(CheckpointError, match="not those that were registered"):
        use(store, row)
