"""The evaluation: four arms on held-out tasks, by the SUPER-NI protocol."""

from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

import dagster as dg
import polars as pl

from assets.preview import markdown_table
from assets.sources import as_parent
from assets.step import Step, materializing
from refine_dagster.evaluation.answers import ArmScores, TaskScore, category_means, predict, score
from refine_dagster.evaluation.comparison import compare_arms
from refine_dagster.evaluation.super_ni import Task, load_tasks, tasks_hash
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.rows import Parent, Row, make_row
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@dg.asset(group_name="evaluation", kinds={"huggingface", "duckdb"}, owners=["team:models"],
          deps=["base_model", "baseline_model", "fine_tuned_model"])  # fmt: skip
def evaluation_report(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """ROUGE-L of base, seeds only, Self-Instruct and REFINE-AF on held-out SUPER-NI tasks.

    Per task and arm; arm against arm with ties, share of tasks won and bootstrap intervals; and
    every answer. It reports whatever it finds.
    """
    with materializing(context, profile, warehouse) as step:
        config = step.profile.evaluation
        tasks = load_tasks(config.tasks, config.max_instances, config.split)
        if same := step.unchanged(tasks=tasks_hash(tasks)):
            return same
        base_row = step.row("base_model")
        base = checkpoints.base_model(base_row)
        arms: list[tuple[str, ModelRef, Parent]] = [
            ("base", base, as_parent("base_model", base_row, "model"))
        ]
        for asset in ("baseline_model", "fine_tuned_model"):
            for row in step.rows(asset):
                ref = checkpoints.adapted_model(asset, row["checkpoint_hash"], base)
                arms.append((row["arm"], ref, as_parent(asset, row, "model")))
        report: list[Row] = []
        answers: list[Row] = []
        with gpu.session(step.profile.device) as device:
            step.device = device
            step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
            for arm, ref, model in arms:
                found = _answer(step, generator, device, arm, ref, tasks)
                rows = [make_row("evaluation_report", asdict(one), [model]) for one in found.tasks]
                by_task = {row["task"]: row["row_id"] for row in rows}
                report += rows
                answers += [
                    make_row(
                        "evaluation_predictions",
                        asdict(one),
                        [model, Parent("evaluation_report", by_task[one.task], "task")],
                    )
                    for one in found.instances
                ]
        return _commit(step, report, answers)


def _answer(
    step: Step,
    generator: GeneratorResource,
    device: Device,
    arm: str,
    ref: ModelRef,
    tasks: Sequence[Task],
) -> ArmScores:
    assert step.store is not None
    with generator.session(ref, device, step.store, step.profile.generator) as session:
        predictions = predict(session.complete, session.backend.cut, tasks, step.profile.evaluation)
    return score(arm, tasks, predictions)


def _commit(step: Step, report: list[Row], answers: list[Row]) -> dg.MaterializeResult[Any]:
    config = step.profile.evaluation
    by_arm: dict[str, dict[str, float]] = {}
    for row in report:
        by_arm.setdefault(row["arm"], {})[row["task"]] = row["rouge_l"]
    compared = compare_arms(
        by_arm,
        tie_margin=config.tie_margin,
        samples=config.bootstrap_samples,
        run_seed=step.profile.run_seed,
    )
    comparisons = [
        make_row(
            "evaluation_comparisons",
            asdict(one),
            [
                Parent("evaluation_report", row["row_id"], "score")
                for row in report
                if row["arm"] in (one.arm, one.against)
            ],
        )
        for one in compared
    ]
    means = {arm: sum(scores.values()) / len(scores) for arm, scores in by_arm.items()}
    categories = {arm: category_means(_scores_of(report, arm)) for arm in by_arm}
    by_category = pl.DataFrame(
        {"arm": arm, **asdict(one)} for arm, found in categories.items() for one in found.categories
    )
    shown = pl.DataFrame([asdict(one) for one in compared])
    return step.commit(
        {
            "evaluation_report": report,
            "evaluation_predictions": answers,
            "evaluation_comparisons": comparisons,
        },
        figures={
            "tasks": len({row["task"] for row in report}),
            **{f"rouge_l_{arm}": mean for arm, mean in means.items()},
            **{f"rouge_l_macro_{arm}": found.macro for arm, found in categories.items()},
            **{f"rouge_l_micro_{arm}": found.micro for arm, found in categories.items()},
        },
        metadata={
            "comparisons": dg.MetadataValue.md(markdown_table(shown)),
            "categories": dg.MetadataValue.md(markdown_table(by_category)),
        },
    )


def _scores_of(report: Sequence[Row], arm: str) -> list[TaskScore]:
    names = [field.name for field in fields(TaskScore)]
    return [TaskScore(**{name: row[name] for name in names}) for row in report if row["arm"] == arm]
