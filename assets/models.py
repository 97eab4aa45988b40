"""The fine-tuned model, and the baselines that it is compared with.

All arms start from the same base, take the same number of optimiser steps with the same config, and
differ only in what they learn from. The steps are set by the pool of accepted instructions, which
all arms share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.sources import as_parent, device_manifest, examples_of, learnt_by
from assets.step import Step, materializing, parents
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.models.device import Device
from refine_dagster.training.sft import steps_for, train_supervised
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, make_row
from refine_dagster.warehouse.tables import base_instances
from resources.checkpoints import CheckpointsResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

Arm = tuple[Row, list[Row], Checkpoint]


def fine_tuned_model(last: PolicyRound) -> dg.AssetsDefinition:
    """The asset of the model that learns from the dataset."""
    pool = last.name("filtered_instructions")

    @dg.asset(name="fine_tuned_model", group_name="model", kinds={"torch", "huggingface"},
              owners=["team:models"], deps=["base_model", pool, "instruction_dataset"])  # fmt: skip
    def tuned(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """The base model fine-tuned with LoRA on the instruction dataset (arm `refine_af`)."""
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged(checkpoints):
                return same
            learnt = {"refine_af": learnt_by(step, "refine_af", last)}
            return _fine_tune_all(step, learnt, pool, gpu, checkpoints)

    return tuned


def baseline_model(last: PolicyRound) -> dg.AssetsDefinition:
    """The asset of the baselines; they share the pool of the last round with the dataset."""
    pool = last.name("filtered_instructions")
    instances = base_instances(last).asset

    @dg.asset(name="baseline_model", group_name="model", kinds={"torch", "huggingface"},
              owners=["team:models"],
              deps=["seed_tasks", "base_model", pool, instances])  # fmt: skip
    def baselines(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """Two baselines with the base and budget of the fine-tuned model.

        `self_instruct` learns from the base policy's instances of the same instructions, under the
        same rules and selection; `seeds_only` learns from the seed tasks alone.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged(checkpoints):
                return same
            learnt = {arm: learnt_by(step, arm, last) for arm in ("seeds_only", "self_instruct")}
            return _fine_tune_all(step, learnt, pool, gpu, checkpoints)

    return baselines


def _fine_tune_all(
    step: Step,
    learnt: Mapping[str, tuple[str, Sequence[Row]]],
    pool: str,
    gpu: GpuResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """Fine-tune each arm on its rows (arm -> their table and they) and commit all.

    The number of steps follows from the size of `pool`.
    """
    with gpu.session(step.profile.device) as device:
        step.device = device
        arms = [
            _fine_tune(step, arm, source, rows, pool, checkpoints, device)
            for arm, (source, rows) in learnt.items()
        ]
    return _commit(step, arms)


def _fine_tune(
    step: Step,
    arm: str,
    source: str,
    rows: Sequence[Row],
    pool: str,
    checkpoints: CheckpointsResource,
    device: Device,
) -> Arm:
    model = step.row("base_model")
    base = checkpoints.base_model(model)
    config, run_seed = step.profile.supervised, step.profile.run_seed
    steps = steps_for(len(step.rows(pool)), config)
    examples = examples_of(list(rows))

    def train(out: Path) -> dict[str, Any]:
        return asdict(train_supervised(base, examples, config, steps, out, device, run_seed))

    manifest = {
        "knobs": config.model_dump(),
        "steps": steps,
        "salt": run_seed,
        "device": device_manifest(device),
        "base": base.fingerprint,
        "examples": [example.render() for example in examples],
    }
    checkpoint = checkpoints.store().train_or_reuse(step.asset, manifest, train)
    tuned = checkpoints.adapted_model(step.asset, checkpoint.content_hash, base)
    logged = checkpoint.record["steps"]
    row = make_row(
        step.asset,
        {
            "arm": arm,
            "fingerprint": tuned.fingerprint,
            "checkpoint_hash": checkpoint.content_hash,
            "rows": checkpoint.record["rows"],
            "steps": steps,
            "loss_first": logged[0]["loss"],
            "loss_last": logged[-1]["loss"],
        },
        [as_parent("base_model", model, "base"), *parents(rows, source, "trained_on")],
    )
    owner = Parent(step.asset, row["row_id"], "model")
    log = [make_row(f"{step.asset}_steps", {"arm": arm, **one}, [owner]) for one in logged]
    return row, log, checkpoint


def _commit(step: Step, arms: Sequence[Arm]) -> dg.MaterializeResult[Any]:
    figures: dict[str, float | int | bool] = {}
    for row, _, checkpoint in arms:
        figures[f"{row['arm']}_rows"] = row["rows"]
        figures[f"{row['arm']}_loss"] = row["loss_last"]
        figures[f"{row['arm']}_reused"] = checkpoint.reused
    return step.commit(
        {
            step.asset: [row for row, _, _ in arms],
            f"{step.asset}_steps": [one for _, log, _ in arms for one in log],
        },
        checkpoints=[checkpoint for _, _, checkpoint in arms],
        figures=figures,
    )
