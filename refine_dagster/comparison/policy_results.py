"""What a comparison keeps of a policy's training, and how long it took."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from refine_dagster.comparison.study import PolicyResult
from refine_dagster.runtime import Trained
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore


class TimedCheckpoints(CheckpointStore):
    """Checkpoints whose record has the seconds that their training took."""

    def train_or_reuse(
        self, asset: str, manifest: Mapping[str, Any], train: Callable[[Path], dict[str, Any]]
    ) -> Checkpoint:
        def timed(out: Path) -> dict[str, Any]:
            started = time.monotonic()
            record = train(out)
            return {**record, "seconds": round(time.monotonic() - started, 2)}

        return super().train_or_reuse(asset, manifest, timed)


def policy_result(trained: Trained) -> PolicyResult:
    row, record = trained.model.row, trained.checkpoints[0].record
    shared = ("steps", "reward_before", "reward_after", "gain", "gain_low", "gain_high")
    return PolicyResult(
        **{name: row[name] for name in shared},
        ended_by=record["ended_by"],
        kl=record["steps"][-1]["kl"],
        seconds=record["seconds"],
    )
