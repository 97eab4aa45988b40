"""Automated feedback: the judge, and what it says of the base policy's instances."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from assets.judge_figures import auc_table, calibration_plot
from assets.preview import markdown_table
from assets.sources import (
    as_parent,
    base_scores,
    device_manifest,
    example_of,
    examples_of,
    policy_after,
    policy_assets,
    prompts,
)
from assets.step import Step, materializing, parents
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.judge.judge import PARTS, loaded_judge
from refine_dagster.judge.published import (
    PUBLISHED,
    find_published_models,
    loaded_published_judge,
    measure_published_judge,
)
from refine_dagster.judge.quality import JudgeQuality, judge_quality
from refine_dagster.judge.training import is_held_out, train_judge
from refine_dagster.refine_af.instances import Policy, scored_instances
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, frame, make_row
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

    With `judge.kind` = `offline`, one backbone, a copy of the base model, with four outputs; it
    learns to tell the seeds and the primer from rule-made corruptions of them. With `published`,
    UniEval and the OpenAssistant reward model as they are. Accuracy on held-out source tasks is
    stored per dimension and kind of corruption; so are each part's AUC and calibration, and the
    parts' correlations, on primer tasks where right and wrong are known.
    """
    with materializing(context, profile, warehouse) as step:
        if step.profile.judge.kind == PUBLISHED:
            return _published(step, gpu)
        if same := step.unchanged(checkpoints):
            return same
        seeds, model = step.rows("seed_tasks"), step.row("base_model")
        examples = examples_of(seeds)
        config, run_seed = step.profile.judge, step.profile.run_seed
        ref = checkpoints.base_model(model)
        with gpu.session(step.profile.device) as device:
            step.device = device

            def train(out: Path) -> dict[str, Any]:
                return asdict(train_judge(ref, examples, config, out, device, run_seed))

            manifest = {
                "knobs": config.model_dump(by_alias=True),
                "salt": run_seed,
                "device": device_manifest(device),
                "base": ref.fingerprint,
                "seeds": [example.render() for example in examples],
            }
            checkpoint = checkpoints.store().train_or_reuse("feedback_judge", manifest, train)
            with loaded_judge(checkpoint.path, device) as judge:
                quality = judge_quality(judge, examples, config, run_seed)
        record = checkpoint.record
        row = make_row(
            "feedback_judge",
            {
                "kind": config.kind,
                "fingerprint": record["fingerprint"],
                "checkpoint_hash": checkpoint.content_hash,
                "held_out_examples": record["held_out_examples"],
            },
            [
                as_parent("base_model", model, "backbone"),
                *parents(seeds, "seed_tasks", "trained_on"),
            ],
        )
        return _commit(step, row, record["accuracies"], quality, [], [checkpoint])


def _published(step: Step, gpu: GpuResource) -> dg.MaterializeResult[Any]:
    """The published judge: nothing is trained; its accuracy is measured on the same examples."""
    config, run_seed = step.profile.judge, step.profile.run_seed
    models = find_published_models(config)
    if same := step.unchanged(
        unieval=models.unieval.fingerprint, reward_model=models.reward_model.fingerprint
    ):
        return same
    seeds = step.rows("seed_tasks")
    with gpu.session(step.profile.device) as device:
        step.device = device
        measure = measure_published_judge(models, examples_of(seeds), config, device, run_seed)
        with loaded_published_judge(models, config, device, measure.fingerprint) as judge:
            quality = judge_quality(judge, (), config, run_seed)
    row = make_row(
        "feedback_judge",
        {
            "kind": config.kind,
            "fingerprint": measure.fingerprint,
            "checkpoint_hash": None,
            "held_out_examples": measure.held_out_examples,
        },
    )
    tested_on = [
        seed for seed in seeds if is_held_out(example_of(seed), config.held_out_share, run_seed)
    ]
    return _commit(
        step,
        row,
        [asdict(one) for one in measure.accuracies],
        quality,
        parents(tested_on, "seed_tasks", "tested_on"),
    )


def _commit(
    step: Step,
    row: Row,
    measured: list[dict[str, Any]],
    quality: JudgeQuality,
    tested_on: list[Parent],
    checkpoints: Sequence[Checkpoint] = (),
) -> dg.MaterializeResult[Any]:
    """Commit the judge with its accuracies and its quality."""
    judge = as_parent("feedback_judge", row, "judge")
    accuracies = [make_row("feedback_judge_accuracy", one, [judge, *tested_on]) for one in measured]
    shown = frame("feedback_judge_accuracy", accuracies).drop("row_id", "parents")
    figures: dict[str, float] = {
        f"accuracy_{one['dimension']}": one["accuracy"]
        for one in accuracies
        if one["corruption"] == "all"
    }
    figures |= {
        f"{one.measure}_{one.dimension}": one.value
        for one in quality.measures
        if one.measure in ("auc", "auc_correctness", "ece")
    }
    for checkpoint in checkpoints:
        figures["checkpoint_reused"] = checkpoint.reused
    return step.commit(
        {
            "feedback_judge": [row],
            "feedback_judge_accuracy": accuracies,
            "feedback_judge_quality": [
                make_row("feedback_judge_quality", asdict(one), [judge]) for one in quality.measures
            ],
            "feedback_judge_calibration": [
                make_row("feedback_judge_calibration", asdict(one), [judge])
                for one in quality.calibration
            ],
        },
        checkpoints=checkpoints,
        figures=figures,
        metadata={
            "accuracy": dg.MetadataValue.md(markdown_table(shown)),
            "quality": dg.MetadataValue.md(auc_table(quality.measures)),
            "calibration": dg.MetadataValue.md(calibration_plot(quality.calibration)),
        },
    )


def reward_scored_instructions(policy_round: PolicyRound) -> dg.AssetsDefinition:
    """The asset of a round's scored instances by the policy that the round begins with."""
    first = policy_round.is_first
    pool = policy_round.name("filtered_instructions")
    # The scale of whitened rewards is that of the first round throughout.
    scale = [] if first else ["reward_scored_instructions"]

    @dg.asset(name=policy_round.name("reward_scored_instructions"), group_name="feedback",
              kinds={"huggingface", "duckdb"}, owners=["team:data"],
              deps=["seed_tasks", *policy_assets(policy_round.number - 1), "feedback_judge", pool,
                    *scale])  # fmt: skip
    def scored(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        generator: GeneratorResource,
        judge: JudgeResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """The base policy's input and output for each accepted instruction, with the judge's
        scores.

        Raw parts are stored beside the reward, and each row says whether it may be learnt from:
        these are the instances of the Self-Instruct baseline, and the policy's reward before
        training. In a later round the policy is that of the round before; the base policy's
        instances of the same pool, which the baseline learns from, stand in a table beside.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return same
            judge_row = step.row("feedback_judge")
            tables = {step.asset: policy_after(step, checkpoints, policy_round.number - 1)}
            if not first:
                base_table = policy_round.name("base_scored_instructions")
                tables[base_table] = policy_after(step, checkpoints, 0)
            made: dict[str, list[Row]] = {}
            with gpu.session(step.profile.device) as device:
                step.device = device
                store = generator.store(step.warehouse, step.run_id, step.profile.generator)
                step.store = store
                lend = partial(generator.session, device=device, store=store)
                scores = [] if first else base_scores(step)
                with judge.session(
                    judge_row, checkpoints, device, step.profile, scores
                ) as feedback:
                    for table, policy in tables.items():
                        with lend(policy.ref, profile=step.profile.generator) as session:
                            made[table] = scored_instances(
                                table,
                                prompts(step, session.backend.count_tokens, policy_round),
                                Policy.of(session, policy.as_parent("policy")),
                                feedback,
                                as_parent("feedback_judge", judge_row, "judge"),
                                step.profile.instances,
                                step.profile.selection,
                                step.profile.run_seed,
                                whiten_by_own=first and step.profile.reward.whiten,
                            )
            return step.commit(made, figures=instance_figures(made[step.asset]))

    return scored


def instance_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Figures of scored instances: how many, how many kept, mean reward and parts."""
    figures: dict[str, float] = {
        "instances": len(rows),
        "kept": sum(row["kept"] for row in rows),
        "format_valid": sum(row["format_valid"] for row in rows),
    }
    for name in ("reward", *(part.name for part in PARTS)):
        values = [row[name] for row in rows if row[name] is not None]
        if values:
            figures[f"mean_{name}"] = sum(values) / len(values)
    return figures
