"""Automated feedback: the judge, and what it says of the base policy's instances."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.preview import markdown_table
from assets.sources import as_parent, device_manifest, prompts, triples
from assets.step import materializing, parents
from refine_dagster.lineage.rows import Parent, frame, make_row
from refine_dagster.refine_af.instances import Policy, scored_instances
from refine_dagster.refine_af.judge_training import train_judge
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.judge import JudgeResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@dg.asset(group_name="feedback", kinds={"torch", "huggingface"}, owners=["team:models"],
          deps=["seed_tasks", "base_model"])  # fmt: skip
def feedback_judge(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """The judge: naturalness, coherence, understandability and a Bradley-Terry reward.

    One backbone, a copy of the base model, with four outputs; it learns to tell the seeds and the
    primer from rule-made corruptions of them. Accuracy on held-out source tasks is stored per
    dimension and kind of corruption.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged(checkpoints):
            return same
        seeds, model = step.rows("seed_tasks"), step.row("base_model")
        examples = triples(seeds)
        knobs, salt = step.profile.judge, step.profile.salt
        ref = checkpoints.base_model(model)
        with gpu.session(step.profile.device) as device:
            step.device = device

            def train(out: Path) -> dict[str, Any]:
                return asdict(train_judge(ref, examples, knobs, out, device, salt))

            manifest = {
                "knobs": knobs.model_dump(),
                "salt": salt,
                "device": device_manifest(device),
                "base": ref.fingerprint,
                "seeds": [example.render() for example in examples],
            }
            checkpoint = checkpoints.store().train_or_reuse("feedback_judge", manifest, train)
        record = checkpoint.record
        row = make_row(
            "feedback_judge",
            {
                "kind": knobs.kind,
                "fingerprint": record["fingerprint"],
                "checkpoint_hash": checkpoint.content_hash,
                "held_out_examples": record["held_out_examples"],
            },
            [
                as_parent("base_model", model, "backbone"),
                *parents(seeds, "seed_tasks", "trained_on"),
            ],
        )
        accuracies = [
            make_row(
                "feedback_judge_accuracy", one, [Parent("feedback_judge", row["row_id"], "judge")]
            )
            for one in record["accuracies"]
        ]
        shown = frame("feedback_judge_accuracy", accuracies).drop("row_id", "parents")
        return step.commit(
            {"feedback_judge": [row], "feedback_judge_accuracy": accuracies},
            checkpoints=[checkpoint],
            figures={
                "checkpoint_reused": checkpoint.reused,
                **{
                    f"accuracy_{one['dimension']}": one["accuracy"]
                    for one in accuracies
                    if one["corruption"] == "all"
                },
            },
            metadata={"accuracy": dg.MetadataValue.md(markdown_table(shown))},
        )


@dg.asset(group_name="feedback", kinds={"huggingface", "duckdb"}, owners=["team:data"],
          deps=["seed_tasks", "base_model", "feedback_judge", "filtered_instructions"])  # fmt: skip
def reward_scored_instructions(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    judge: JudgeResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """The base policy's input and output for each accepted instruction, with the judge's scores.

    Raw parts are stored beside the reward, and each row says whether it may be learnt from: these
    are the instances of the Self-Instruct baseline, and the policy's reward before training.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged():
            return same
        model, judge_row = step.row("base_model"), step.row("feedback_judge")
        ref = checkpoints.base_model(model)
        with gpu.session(step.profile.device) as device:
            step.device = device
            step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
            with (
                generator.session(ref, device, step.store, step.profile.generator) as session,
                judge.session(judge_row, checkpoints, device, step.profile.reward) as feedback,
            ):
                rows = scored_instances(
                    "reward_scored_instructions",
                    prompts(step, session.backend.count_tokens),
                    Policy.of(session, as_parent("base_model", model, "policy")),
                    feedback,
                    as_parent("feedback_judge", judge_row, "judge"),
                    step.profile.instances,
                    step.profile.selection,
                    step.profile.salt,
                    whiten_by_own=step.profile.reward.whiten,
                )
        return step.commit({"reward_scored_instructions": rows}, figures=instance_figures(rows))


def instance_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of scored instances: how many, how many kept, mean reward and parts."""
    figures: dict[str, float] = {
        "instances": len(rows),
        "kept": sum(row["kept"] for row in rows),
        "format_valid": sum(row["format_valid"] for row in rows),
    }
    for name in ("reward", "naturalness", "coherence", "understandability", "reward_model"):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            figures[f"mean_{name}"] = sum(values) / len(values)
    return figures
