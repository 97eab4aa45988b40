"""Statistics: bootstrap intervals, AUC, rank correlation, a sign test, calibration.

Intervals are 95 % percentile bootstraps whose draws come from a given seed: scipy's bootstrap would
draw other resamples, and with them give other figures than the rows that are stored.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from refine_dagster.seeding import request_seed

if TYPE_CHECKING:
    import numpy
    from numpy.random import Generator
    from numpy.typing import ArrayLike, NDArray


COVERAGE = 0.95
TAIL = (1 - COVERAGE) / 2
RESAMPLES = 1000
# Resamples held in memory together.
CHUNK = 100
BINS = 10
DECIMALS = 6


class Interval(NamedTuple):
    low: float
    high: float


@dataclass(frozen=True)
class Gain:
    """A mean paired difference and its interval."""

    mean: float
    low: float
    high: float


def percentile_interval(
    resampled: Sequence[float] | NDArray[numpy.float64], tail: float = TAIL
) -> Interval:
    """The interval of a figure by its values over resamples; `tail` lies outside on each side."""
    import numpy

    low, high = numpy.quantile(resampled, [tail, 1 - tail])
    return Interval(float(low), float(high))


def bootstrap(figure: Callable[[Generator], float], *, samples: int, seed: int) -> Interval:
    """The interval of a figure that draws its own resample from the generator given to it."""
    import numpy

    generator = numpy.random.default_rng(seed)
    return percentile_interval([figure(generator) for _ in range(samples)])


def bootstrap_intervals(
    series: Sequence[Sequence[float]], *, samples: int, seed: int, tail: float = TAIL
) -> list[Interval]:
    """Intervals of the means of several figures of the same cases, one sequence a figure.

    A resample draws as many cases as there are, with replacement, and takes all figures of each.
    """
    import numpy

    values = numpy.asarray(series, dtype=numpy.float64)
    cases = values.shape[1]
    generator = numpy.random.default_rng(seed)
    chunks: list[list[NDArray[numpy.float64]]] = [[] for _ in values]
    for done in range(0, samples, CHUNK):
        drawn = generator.integers(cases, size=(min(CHUNK, samples - done), cases))
        for means, figure in zip(chunks, values, strict=True):
            means.append(figure[drawn].mean(axis=1))
    return [percentile_interval(numpy.concatenate(means), tail) for means in chunks]


def paired_gain(
    before: Sequence[float], after: Sequence[float], samples: int = 2000, *, run_seed: str = ""
) -> Gain:
    """Mean of `after - before` with its bootstrap interval, both in the order of the same cases."""
    import numpy

    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} values before and {len(after)} after make no pairs")
    differences = numpy.asarray(after, dtype=float) - numpy.asarray(before, dtype=float)
    seed = request_seed(run_seed, "paired_gain")
    # `TAIL` is 0.025 but for its last bit, which stored rows would show.
    (interval,) = bootstrap_intervals([differences], samples=samples, seed=seed, tail=0.025)
    return Gain(float(differences.mean()), *interval)


def two_way_interval(
    values: Sequence[Sequence[float]] | NDArray[numpy.float64],
    *,
    samples: int,
    seed: int,
    figure: Callable[[NDArray[numpy.float64]], float] | None = None,
) -> Interval:
    """The interval of a figure of the table `values[random seed][task]`, the mean by default.

    A place of the table may hold several values, which are drawn together.

    Each resample draws tasks with replacement and, independently, random seeds (the crossed
    bootstrap, Owen 2007, section 3): an interval that resamples only one of them is too narrow.
    """
    import numpy

    table = numpy.asarray(values, dtype=numpy.float64)
    rows, columns = table.shape[:2]

    def resampled(generator: Generator) -> float:
        seeds = generator.integers(0, rows, size=rows)
        tasks = generator.integers(0, columns, size=columns)
        drawn = table[seeds][:, tasks]
        return float(drawn.mean() if figure is None else figure(drawn))

    return bootstrap(resampled, samples=samples, seed=seed)


def auc(good: ArrayLike, bad: ArrayLike) -> float:
    """Probability that a good text's score is above a bad one's, ties counting half.

    `scipy.stats.mannwhitneyu` gives the same bits in 3 ms, too slow for each of 1000 resamples.
    """
    import numpy

    above, ordered = numpy.asarray(good), numpy.sort(numpy.asarray(bad))
    below = numpy.searchsorted(ordered, above, side="left")
    up_to = numpy.searchsorted(ordered, above, side="right")
    return float((below + up_to).sum() / (2 * len(above) * len(ordered)))


def auc_interval(
    scores: Sequence[float],
    good: Sequence[bool],
    tasks: Sequence[int],
    *,
    seed: int,
    samples: int = RESAMPLES,
) -> tuple[float, float, float]:
    """AUC of texts' scores and the bounds of its interval; a resample draws whole tasks.

    Raises:
        ValueError: all texts are good, or none is.
    """
    import numpy

    values = numpy.asarray(scores, dtype=numpy.float64)
    is_good: NDArray[numpy.bool_] = numpy.asarray(good, dtype=bool)
    if is_good.all() or not is_good.any():
        raise ValueError("an AUC needs good texts and bad ones")
    above = values[is_good][:, None] - values[~is_good][None, :]
    order = (above > 0) + 0.5 * (above == 0)
    _, of_task = numpy.unique(numpy.asarray(tasks), return_inverse=True)
    count = int(of_task.max()) + 1
    draws: NDArray[numpy.int64] = numpy.random.default_rng(seed).multinomial(
        count, numpy.full(count, 1 / count), size=samples
    )
    of_good = draws[:, of_task[is_good]].astype(numpy.float64)
    of_bad = draws[:, of_task[~is_good]].astype(numpy.float64)
    pairs = of_good.sum(axis=1) * of_bad.sum(axis=1)
    sums: NDArray[numpy.float64] = ((of_good @ order) * of_bad).sum(axis=1)
    # A resample without one of the two classes says nothing.
    interval = percentile_interval(sums[pairs > 0] / pairs[pairs > 0])
    return (auc(values[is_good], values[~is_good]), *interval)


def spearman(first: Sequence[float], second: Sequence[float]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None where a side does not vary.

    >>> round(spearman([1, 2, 3, 4], [10, 20, 40, 30]), 6)
    0.8
    """
    from scipy.stats import spearmanr

    if len(set(first)) < 2 or len(set(second)) < 2:
        return None
    return float(spearmanr(first, second).statistic)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided p-value of a fair coin giving so uneven a split, or one more so; exact.

    >>> round(sign_test(8, 0), 6)
    0.007812
    >>> sign_test(0, 0)
    1.0
    """
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


@dataclass(frozen=True)
class CalibrationBin:
    """A row of `feedback_judge_calibration`: one bin of predictions with texts in it.

    Bin b of `BINS` holds predictions from b / BINS, the last one 1 as well. `predicted` is their
    mean, `observed` the share of good texts; good and bad texts weigh the same in sum.
    """

    dimension: str
    bin: int
    examples: int
    predicted: float
    observed: float


@dataclass(frozen=True)
class Calibration:
    """Bins that hold texts, in order, and the expected calibration error over them."""

    bins: tuple[CalibrationBin, ...]
    error: float


def calibration(dimension: str, predicted: Sequence[float], good: Sequence[bool]) -> Calibration:
    """Reliability of probabilities; no bins where all texts are good, or none is.

    >>> calibration("coherence", [0.95, 0.95, 0.05], [True, False, False]).error
    0.225
    """
    counts = {label: sum(value is label for value in good) for label in (True, False)}
    if not all(counts.values()):
        return Calibration((), 0.0)
    binned: dict[int, list[tuple[float, bool]]] = defaultdict(list)
    for value, label in zip(predicted, good, strict=True):
        binned[min(int(value * BINS), BINS - 1)].append((value, label))
    bins: list[CalibrationBin] = []
    error = 0.0
    for number, members in sorted(binned.items()):
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
