"""The figures of a comparison: means over tasks and random seeds, with their intervals.

Tasks and random seeds were both drawn by chance, and every interval resamples both
(`statistics.two_way_interval`). It errs, if at all, on the wide side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from refine_dagster.comparison.arms import BASE, SEEDS_ONLY
from refine_dagster.comparison.duels import MEASURES, ROUGE_L, Duel, duel_of
from refine_dagster.comparison.loss_figures import LossFigure, loss_figures
from refine_dagster.comparison.study import CellResult
from refine_dagster.evaluation.report import category_means
from refine_dagster.judge.judge import PARTS
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import spearman, two_way_interval


@dataclass(frozen=True)
class ArmFigure:
    """One arm at one size, over tasks and random seeds; scores are points of 100."""

    arm: str
    size: int
    random_seeds: int
    rows: float  # of the dataset, mean
    rouge_l: float
    low: float
    high: float
    deviation: float | None  # of the random seeds' means; None for one seed
    macro: float  # mean over categories instead of tasks
    exact_match: float


@dataclass(frozen=True)
class PolicyFigure:
    """The policies of one arm: means of `PolicyResult` over the random seeds."""

    arm: str
    random_seeds: int
    reward_before: float
    reward_after: float
    gain: float
    gains_above_zero: int  # random seeds whose interval lies above zero
    kl: float
    ended_by: Mapping[str, int]  # what ended the trainings -> how many
    seconds: float


@dataclass(frozen=True)
class RewardLink:
    """How one part of the judge correlates with downstream ROUGE-L (Spearman).

    Attributes:
        of_answers: its scores of answers with their ROUGE-L, mean over cells.
        of_datasets: its mean over a dataset with the ROUGE-L of the model that learned from it,
            both as differences from the mean of the cells with that size and random seed.
        datasets: cells in the latter.
    """

    part: str
    of_answers: float | None
    of_datasets: float | None
    datasets: int


@dataclass(frozen=True)
class Figures:
    losses: tuple[LossFigure, ...]
    arms: tuple[ArmFigure, ...]
    duels: tuple[Duel, ...]  # by reference loss, then by ROUGE-L
    policies: tuple[PolicyFigure, ...]
    links: tuple[RewardLink, ...]


def figures_of(
    cells: Sequence[CellResult],
    against: Sequence[str],
    *,
    tie_margin: float,
    samples: int,
    run_seed: str,
) -> Figures:
    """Summarise the cells of one study; every arm has the same sizes and random seeds.

    Args:
        against: arms that every arm after them is compared with, where they are present.
        tie_margin: difference of mean ROUGE-L up to which a task is tied.
        samples: resamples of every interval.
    """
    groups: dict[tuple[str, int], list[CellResult]] = {}
    for cell in cells:
        groups.setdefault((cell.arm, cell.size), []).append(cell)
    sizes = sorted({size for _, size in groups if size})
    names = list(dict.fromkeys(cell.arm for cell in cells))
    arms = [
        _arm_figure(groups[name, size], samples, run_seed)
        for name in names
        for size in ([0] if name == BASE else sizes)
    ]
    losses = loss_figures(
        # The base model has no size: it stands at each, so that it has a share of the way.
        {
            (name, size): groups[name, 0 if name == BASE else size]
            for name in names
            for size in sizes
        }
        or groups,
        samples,
        run_seed,
    )
    duels = [
        duel_of(
            measure,
            groups[name, size],
            groups[other, 0 if other == BASE else size],
            tie_margin=tie_margin if measure is ROUGE_L else 0.0,
            samples=samples,
            run_seed=run_seed,
        )
        for measure in MEASURES
        for other in against
        if other in names
        for name in names[names.index(other) + 1 :]
        for size in sizes
        if name != BASE
    ]
    return Figures(
        tuple(losses),
        tuple(arms),
        tuple(duels),
        tuple(_policies(cells, names)),
        tuple(_links(cells)),
    )


def _arm_figure(cells: Sequence[CellResult], samples: int, run_seed: str) -> ArmFigure:
    first = cells[0]
    table = ROUGE_L.table(cells)
    means = [fmean(row) for row in table]
    low, high = two_way_interval(
        table, samples=samples, seed=request_seed(run_seed, "arm", first.arm, first.size)
    )
    return ArmFigure(
        arm=first.arm,
        size=first.size,
        random_seeds=len(cells),
        rows=fmean(cell.dataset.rows if cell.dataset else 0 for cell in cells),
        rouge_l=fmean(means),
        low=low,
        high=high,
        deviation=stdev(means) if len(means) > 1 else None,
        macro=fmean(category_means(cell.tasks).macro for cell in cells),
        exact_match=fmean(task.exact_match for cell in cells for task in cell.tasks),
    )


def _policies(cells: Sequence[CellResult], names: Sequence[str]) -> list[PolicyFigure]:
    figures = []
    for name in names:
        # One policy serves all sizes of a random seed.
        of_seed = {
            cell.random_seed: cell.policy for cell in cells if cell.arm == name and cell.policy
        }
        if not of_seed:
            continue
        policies = list(of_seed.values())
        ended = [policy.ended_by for policy in policies]
        figures.append(
            PolicyFigure(
                arm=name,
                random_seeds=len(policies),
                reward_before=fmean(policy.reward_before for policy in policies),
                reward_after=fmean(policy.reward_after for policy in policies),
                gain=fmean(policy.gain for policy in policies),
                gains_above_zero=sum(policy.gain_low > 0 for policy in policies),
                kl=fmean(policy.kl for policy in policies),
                ended_by={reason: ended.count(reason) for reason in sorted(set(ended))},
                seconds=fmean(policy.seconds for policy in policies),
            )
        )
    return figures


def _links(cells: Sequence[CellResult]) -> list[RewardLink]:
    # Of the seeds, one dataset serves all sizes.
    made = [cell for cell in cells if cell.dataset is not None and cell.arm != SEEDS_ONLY]
    links = []
    own = [part.name for part in PARTS]
    others = {part for cell in cells for part in cell.answers}.difference(own)
    for part in [*own, *sorted(others)]:
        answers = [value for cell in cells if (value := cell.answers.get(part)) is not None]
        parts = _centred(made, [cell.dataset.parts[part] if cell.dataset else 0.0 for cell in made])
        scores = _centred(made, [fmean(task.rouge_l for task in cell.tasks) for cell in made])
        links.append(
            RewardLink(
                part=part,
                of_answers=fmean(answers) if answers else None,
                of_datasets=spearman(parts, scores) if len(made) > 2 else None,
                datasets=len(made),
            )
        )
    return links


def _centred(cells: Sequence[CellResult], values: Sequence[float]) -> list[float]:
    """Each value less the mean of the cells with its size and random seed."""
    groups: dict[tuple[int, int], list[float]] = {}
    for cell, value in zip(cells, values, strict=True):
        groups.setdefault((cell.size, cell.random_seed), []).append(value)
    return [
        value - fmean(groups[cell.size, cell.random_seed])
        for cell, value in zip(cells, values, strict=True)
    ]
