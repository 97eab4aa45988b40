"""The evaluation's report: each arm's scores and answers, means, and arms compared.

REFINE-AF reports the share of tasks won (docs/methods.md, section 2.7). That share alone hides
ties, the size of the differences and the luck in the choice of tasks. So each comparison has wins,
ties and losses, the mean difference, and percentile bootstrap intervals over tasks for both.

The benchmark's own figure is the mean over all instances (*micro*), and so mostly that of its large
categories: the largest of the twelve has 24 of the 119 test tasks, the smallest one. The mean over
categories (*macro*) weighs each kind of task equally.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from statistics import fmean

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.answers import ArmScores, TaskScore
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import bootstrap_intervals
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row, parents

REPORT, ANSWERS = "evaluation_report", "evaluation_predictions"
COMPARISONS = "evaluation_comparisons"
# The base model; what the seeds add, what bootstrapping adds, what automated feedback adds. An arm
# is compared with every arm before it.
ARMS = ("base", "seeds_only", "self_instruct", "refine_af")
# Equal means of different sums may differ in the last bits; points of 100.
ROUNDING = 1e-9


def report_tables(
    scores: Mapping[str, ArmScores],
    models: Mapping[str, Parent],
    config: EvaluationConfig,
    run_seed: str,
) -> dict[str, list[Row]]:
    """The report's tables, from each arm's scores and the row of its model."""
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


@dataclass(frozen=True)
class CategoryScore:
    """One category, with the mean ROUGE-L over its instances."""

    category: str
    tasks: int
    instances: int
    rouge_l: float


@dataclass(frozen=True)
class CategoryMeans:
    """Categories by name, and the means over categories and over instances, points of 100."""

    categories: tuple[CategoryScore, ...]
    macro: float
    micro: float


def category_means(scores: Sequence[TaskScore]) -> CategoryMeans:
    """The means of one arm's scores; a task counts in its first category.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("there are no scores to take means of")
    categories = []
    for name in sorted({score.category for score in scores}):
        members = [score for score in scores if score.category == name]
        instances = sum(score.instances for score in members)
        categories.append(CategoryScore(name, len(members), instances, _over_instances(members)))
    macro = fmean(category.rouge_l for category in categories)
    return CategoryMeans(tuple(categories), macro, _over_instances(scores))


def _over_instances(scores: Sequence[TaskScore]) -> float:
    return fmean([score.rouge_l for score in scores], weights=[score.instances for score in scores])


@dataclass(frozen=True)
class Comparison:
    """A row of `evaluation_comparisons`; differences are points of 100."""

    arm: str
    against: str
    tasks: int
    wins: int
    ties: int
    losses: int
    mean_delta: float
    delta_low: float
    delta_high: float
    win_share: float
    win_share_low: float
    win_share_high: float


def compare_arms(
    scores: Mapping[str, Mapping[str, float]], *, tie_margin: float, samples: int, run_seed: str
) -> list[Comparison]:
    """Compare every arm with every arm before it, in the order of `ARMS`.

    Args:
        scores: arm -> task -> mean ROUGE-L in points of 100; the same tasks for every arm.
        tie_margin: difference up to which a task is tied.
        samples: bootstrap resamples.

    Raises:
        ValueError: an arm is unknown, or the arms do not have the same tasks.
    """
    unknown = sorted(set(scores) - set(ARMS))
    if unknown:
        raise ValueError(f"unknown arms {unknown}")
    present = [arm for arm in ARMS if arm in scores]
    return [
        compare(
            arm,
            against,
            scores[arm],
            scores[against],
            tie_margin=tie_margin,
            samples=samples,
            seed=request_seed(run_seed, "comparison", arm, against),
        )
        for index, arm in enumerate(present)
        for against in present[:index]
    ]


def compare(
    arm: str,
    against: str,
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    *,
    tie_margin: float,
    samples: int,
    seed: int,
) -> Comparison:
    """Compare two arms' scores task by task; see `compare_arms`."""
    if not ours or ours.keys() != theirs.keys():
        raise ValueError(f"{arm} and {against} do not have the same tasks, at least one")
    deltas = [ours[task] - theirs[task] for task in sorted(ours)]
    won = [delta > tie_margin + ROUNDING for delta in deltas]
    lost = [delta < -tie_margin - ROUNDING for delta in deltas]
    delta_interval, share_interval = bootstrap_intervals([deltas, won], samples=samples, seed=seed)
    return Comparison(
        arm=arm,
        against=against,
        tasks=len(deltas),
        wins=sum(won),
        ties=len(deltas) - sum(won) - sum(lost),
        losses=sum(lost),
        mean_delta=fmean(deltas),
        delta_low=delta_interval.low,
        delta_high=delta_interval.high,
        win_share=sum(won) / len(won),
        win_share_low=share_interval.low,
        win_share_high=share_interval.high,
    )
