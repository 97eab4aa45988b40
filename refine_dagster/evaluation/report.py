"""The evaluation as rows: each arm's scores and answers, and the arms compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.answers import ArmScores, CategoryMeans, TaskScore, category_means
from refine_dagster.evaluation.comparison import compare_arms
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row, parents

REPORT, ANSWERS = "evaluation_report", "evaluation_predictions"
COMPARISONS = "evaluation_comparisons"


def report_tables(
    scores: Mapping[str, ArmScores],
    models: Mapping[str, Parent],
    config: EvaluationConfig,
    run_seed: str,
) -> dict[str, list[Row]]:
    """The report's tables.

    Args:
        scores: arm -> its scores.
        models: arm -> the row of its model.
        run_seed: seeds the resampling.
    """
    report: list[Row] = []
    answers: list[Row] = []
    for arm, scored in scores.items():
        rows = [make_row(REPORT, asdict(task), [models[arm]]) for task in scored.tasks]
        of_task = {row["task"]: as_parent(REPORT, row, "task") for row in rows}
        report += rows
        answers += [
            make_row(ANSWERS, asdict(answer), [models[arm], of_task[answer.task]])
            for answer in scored.instances
        ]
    compared = compare_arms(
        {arm: {task.task: task.rouge_l for task in scored.tasks} for arm, scored in scores.items()},
        tie_margin=config.tie_margin,
        samples=config.bootstrap_samples,
        run_seed=run_seed,
    )
    comparisons = []
    for pair in compared:
        both = [row for row in report if row["arm"] in (pair.arm, pair.against)]
        comparisons.append(make_row(COMPARISONS, asdict(pair), parents(both, REPORT, "score")))
    return {REPORT: report, ANSWERS: answers, COMPARISONS: comparisons}


def means_of(report: Sequence[Row]) -> dict[str, CategoryMeans]:
    """Arm -> its means over categories and instances."""
    names = [field.name for field in fields(TaskScore)]
    scores: dict[str, list[TaskScore]] = {}
    for row in report:
        score = TaskScore(**{name: row[name] for name in names})
        scores.setdefault(score.arm, []).append(score)
    return {arm: category_means(own) for arm, own in scores.items()}


def report_figures(report: Sequence[Row]) -> dict[str, float]:
    """The number of tasks, and each arm's mean over tasks, categories and instances."""
    figures: dict[str, float] = {"tasks": len({row["task"] for row in report})}
    for arm, means in means_of(report).items():
        scores = [row["rouge_l"] for row in report if row["arm"] == arm]
        figures[f"rouge_l_{arm}"] = sum(scores) / len(scores)
        figures[f"rouge_l_macro_{arm}"] = means.macro
        figures[f"rouge_l_micro_{arm}"] = means.micro
    return figures
