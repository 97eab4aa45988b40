"""Whether one arm beats another over all tasks, and how sure that is.

REFINE-AF reports the share of tasks won (docs/methods.md, section 2.7). That share alone hides
ties, the size of the differences and the luck in the choice of tasks. So each comparison has wins,
ties and losses, the mean difference, and percentile bootstrap intervals over tasks for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.seeding import request_seed
from refine_dagster.statistics import bootstrap_intervals

# What was there, what the seeds add, what bootstrapping adds, what automated feedback adds. An arm
# is compared with every arm before it.
ARMS = ("base", "seeds_only", "self_instruct", "refine_af")
# Equal means of different sums may differ in the last bits; points of 100.
ROUNDING = 1e-9


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
        run_seed: seeds the resampling, with the names of the two arms.

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
