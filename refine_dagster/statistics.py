"""Statistics of scores against known quality: AUC, calibration and rank correlation.

All are free of thresholds: a judge is used for its order (which of two texts is better) and, in a
weighted sum, for its size. numpy alone, so that the figures are the same wherever they are made.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from refine_dagster.seeding import request_seed

if TYPE_CHECKING:
    from numpy import bool_, float64, int64
    from numpy.typing import NDArray


BINS = 10
RESAMPLES = 1000
COVERAGE = 0.95
DECIMALS = 6


@dataclass(frozen=True)
class CalibrationBin:
    """A row of the table `feedback_judge_calibration`: one bin of predictions with texts in it.

    Attributes:
        dimension: the part whose predictions these are.
        bin: from 0; bin b of `BINS` holds predictions from b / BINS, the last one 1 as well.
        examples: texts in it.
        predicted: mean prediction, 0 to 1; good and bad texts of the whole sample weigh the same
            in sum, as they do in the judge's training.
        observed: share that was good, weighed likewise.
    """

    dimension: str
    bin: int
    examples: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Bins with texts in them, in order, and the expected calibration error over them."""

    bins: tuple[CalibrationBin, ...]
    error: float


def auc_interval(
    scores: Sequence[float],
    good: Sequence[bool],
    tasks: Sequence[int],
    *,
    seed: int,
    samples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """AUC, a tie counting one half, and the bounds of its 95 % bootstrap interval over tasks.

    Args:
        scores: one a text.
        good: which texts are good; some are and some are not.
        tasks: the task of each text; a resample takes all the texts of a task or none.

    Raises:
        ValueError: all texts are good, or none is.
    """
    import numpy

    values = numpy.asarray(scores, dtype=numpy.float64)
    is_good: NDArray[bool_] = numpy.asarray(good, dtype=bool)
    if is_good.all() or not is_good.any():
        raise ValueError("an AUC needs good texts and bad ones")
    above = values[is_good][:, None] - values[~is_good][None, :]
    order = (above > 0) + 0.5 * (above == 0)
    _, of_task = numpy.unique(numpy.asarray(tasks), return_inverse=True)
    count = int(of_task.max()) + 1
    draws: NDArray[int64] = numpy.random.default_rng(seed).multinomial(
        count, numpy.full(count, 1 / count), size=samples
    )
    of_good = draws[:, of_task[is_good]].astype(numpy.float64)
    of_bad = draws[:, of_task[~is_good]].astype(numpy.float64)
    pairs = of_good.sum(axis=1) * of_bad.sum(axis=1)
    sums: NDArray[float64] = ((of_good @ order) * of_bad).sum(axis=1)
    # A resample without one of the two classes says nothing.
    resampled = sums[pairs > 0] / pairs[pairs > 0]
    tail = (1 - COVERAGE) / 2
    low, high = numpy.quantile(resampled, [tail, 1 - tail])
    return float(order.mean()), float(low), float(high)


def calibration(dimension: str, predicted: Sequence[float], good: Sequence[bool]) -> Calibration:
    """Reliability of probabilities, good and bad texts weighing one half each in sum.

    Without both classes there is nothing to weigh, and no bins.

    >>> calibration("coherence", [0.95, 0.95, 0.05], [True, False, False]).error
    0.283333
    """
    counts = {label: sum(one is label for one in good) for label in (True, False)}
    if not all(counts.values()):
        return Calibration((), 0.0)
    placed: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for value, label in zip(predicted, good, strict=True):
        placed[min(int(value * BINS), BINS - 1)].append((value, label))
    bins: list[CalibrationBin] = []
    error = 0.0
    for number, members in sorted(placed.items()):
        weights = [0.5 / counts[label] for _, label in members]
        total = sum(weights)
        mean = sum(w * value for w, (value, _) in zip(weights, members, strict=True)) / total
        share = sum(w for w, (_, label) in zip(weights, members, strict=True) if label) / total
        error += total * abs(mean - share)
        bins.append(
            CalibrationBin(
                dimension, number, len(members), round(mean, DECIMALS), round(share, DECIMALS)
            )
        )
    return Calibration(tuple(bins), round(error, DECIMALS))


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where a side does not vary.

    >>> spearman([1, 2, 3, 4], [10, 20, 40, 30])
    0.8
    """
    import numpy

    ranks = [_ranks(first), _ranks(second)]
    centred = [one - one.mean() for one in ranks]
    spread = float(numpy.sqrt((centred[0] ** 2).sum() * (centred[1] ** 2).sum()))
    return float((centred[0] * centred[1]).sum()) / spread if spread else None


def _ranks(values: Sequence[float]) -> NDArray[float64]:
    """Ranks from 1, equal values sharing the mean of theirs."""
    import numpy

    _, inverse, counts = numpy.unique(
        numpy.asarray(values, dtype=numpy.float64), return_inverse=True, return_counts=True
    )
    last = numpy.cumsum(counts)
    ranks: NDArray[float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


COVERAGE = 0.95


@dataclass(frozen=True)
class Interval:
    """The bounds of a bootstrap interval."""

    low: float
    high: float


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


# Resamples held in memory together.
CHUNK = 100


@dataclass(frozen=True)
class Gain:
    """A mean paired difference and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def paired_gain(
    before: Sequence[float], after: Sequence[float], samples: int = 2000, *, run_seed: str = ""
) -> Gain:
    """Mean of `after - before` with its percentile bootstrap interval (2.5 % to 97.5 %).

    Args:
        before: n values, one an instruction.
        after: n values, of the same instructions in the same order.
        samples: resamples of the n differences.
        run seed: names the resampling noise.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    import numpy

    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} values before and {len(after)} after make no pairs")
    differences = numpy.asarray(after, dtype=float) - numpy.asarray(before, dtype=float)
    generator = numpy.random.default_rng(request_seed(run_seed, "paired_gain"))
    count = len(differences)
    means = numpy.concatenate(
        [
            differences[generator.integers(count, size=(min(CHUNK, samples - done), count))].mean(1)
            for done in range(0, samples, CHUNK)
        ]
    )
    low, high = numpy.quantile(means, [0.025, 0.975])
    return Gain(float(differences.mean()), float(low), float(high))
