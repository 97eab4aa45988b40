"""Whether one arm beats another over all tasks, and how sure that is.

REFINE-AF reports the share of tasks won; that share alone hides ties, the size of the differences
and the luck in the choice of tasks (methods A, evaluation). So each comparison has wins, ties and
losses, the mean difference, and percentile bootstrap intervals over tasks for both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.generation.request import request_seed

# In the order of the story: what was there, what the seeds add, what bootstrapping adds, what
# automated feedback adds. An arm is compared with every arm before it.
ARMS = ("base", "seeds_only", "self_instruct", "refine_af")
COVERAGE = 0.95
# Equal means reached by different sums may differ in the last bits; points of 100.
ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """The bounds of a bootstrap interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Comparison:
    """A row of the table `evaluation_comparisons`; differences are points of 100."""

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
    scores: Mapping[str, Mapping[str, float]], *, tie_margin: float, samples: int, salt: str
) -> list[Comparison]:
    """Compare every arm with every arm before it in `ARMS`.

    Args:
        scores: arm -> task -> mean ROUGE-L in points of 100; the same tasks for every arm.
        tie_margin: difference up to which a task is tied.
        samples: bootstrap resamples.
        salt: seeds the resampling, with the names of the two arms.

    Returns:
        Comparisons in the order of `ARMS`, of the arm and then of the arm against.

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
            seed=request_seed(salt, "comparison", arm, against),
        )
        for place, arm in enumerate(present)
        for against in present[:place]
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


def bootstrap_intervals(
    series: Sequence[Sequence[float]], *, samples: int, seed: int
) -> list[Interval]:
    """Percentile bootstrap intervals (95 %) of the means of several figures of the same cases.

    Args:
        series: one sequence a figure, all of one length n >= 1; a resample draws n cases with
            replacement and takes all figures of each.

    Returns:
        One interval a figure.
    """
    import numpy

    values = numpy.asarray(series, dtype=numpy.float64)
    cases = values.shape[1]
    draws = numpy.random.default_rng(seed).integers(0, cases, size=(samples, cases))
    tail = (1 - COVERAGE) / 2
    intervals = []
    for figure in values:
        bounds = numpy.quantile(figure[draws].mean(axis=1), [tail, 1 - tail])
        intervals.append(Interval(float(bounds[0]), float(bounds[1])))
    return intervals
