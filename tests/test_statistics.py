"""Intervals have the width and the coverage that they claim; AUC, rank correlation, sign test."""

from __future__ import annotations

import random

import numpy as np
import pytest

from refine_dagster.statistics import (
    CalibrationBin,
    Interval,
    auc,
    auc_interval,
    bootstrap_intervals,
    calibration,
    paired_gain,
    sign_test,
    spearman,
    two_way_interval,
)


def test_gain_of_a_shift_is_the_shift() -> None:
    gain = paired_gain([0.1, 0.7, 0.4], [0.3, 0.9, 0.6], samples=200, run_seed="s")
    assert gain.mean == pytest.approx(0.2)
    assert gain.low == pytest.approx(0.2)
    assert gain.high == pytest.approx(0.2)


def test_interval_has_the_width_that_theory_gives() -> None:
    draw = random.Random(3)
    after = [draw.gauss(0.0, 1.0) for _ in range(400)]
    gain = paired_gain([0.0] * 400, after, run_seed="s")
    assert gain.low < gain.mean < gain.high
    # 2 x 1.96 standard errors of a mean of 400 unit normals is 0.196.
    assert gain.high - gain.low == pytest.approx(0.196, rel=0.15)
    assert paired_gain([0.0] * 400, after, run_seed="s") == gain
    assert paired_gain([0.0] * 400, after, run_seed="t") != gain


def test_interval_covers_zero_where_there_is_no_gain() -> None:
    draw = random.Random(4)
    before = [draw.random() for _ in range(100)]
    after = [draw.random() for _ in range(100)]
    gain = paired_gain(before, after, run_seed="s")
    assert gain.low < 0 < gain.high


@pytest.mark.parametrize(("before", "after"), [([], []), ([1.0], [1.0, 2.0])])
def test_what_makes_no_pairs_is_refused(before: list[float], after: list[float]) -> None:
    with pytest.raises(ValueError, match="make no pairs"):
        paired_gain(before, after)


def test_intervals_contain_the_truth_about_as_often_as_they_say() -> None:
    draws = np.random.default_rng(11)
    truth, trials = 2.0, 400
    held = 0
    for trial in range(trials):
        sample = draws.normal(truth, 5.0, size=40)
        (interval,) = bootstrap_intervals([sample.tolist()], samples=400, seed=trial)
        held += interval.low <= truth <= interval.high
    # Percentile intervals of 40 cases are slightly short; binomial error of 400 trials is 1.1 %.
    assert 0.90 <= held / trials <= 0.98


def test_figures_of_one_case_stay_together() -> None:
    series = [1.0, 5.0, 2.0, 8.0]
    first, second = bootstrap_intervals(
        [series, [2 * value for value in series]], samples=300, seed=3
    )
    assert (second.low, second.high) == pytest.approx((2 * first.low, 2 * first.high))


def test_the_same_seed_gives_the_same_interval_and_another_seed_another() -> None:
    figures = np.random.default_rng(1).normal(size=30).tolist()

    def interval(seed: int) -> Interval:
        return bootstrap_intervals([figures], samples=200, seed=seed)[0]

    assert interval(1) == interval(1)
    assert interval(1) != interval(2)


def test_auc_by_hand_with_ties() -> None:
    # Pairs: 3 beats 1 and 2; 2 beats 1 and ties with 2: 3.5 of 4.
    assert auc(np.array([3.0, 2.0]), np.array([1.0, 2.0])) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize(
    ("wins", "losses", "p"), [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 0.0625), (9, 1, 22 / 1024)]
)
def test_the_sign_test_is_exact(wins: int, losses: int, p: float) -> None:
    assert sign_test(wins, losses) == pytest.approx(p)
    assert sign_test(losses, wins) == pytest.approx(p)


def test_the_interval_grows_with_the_spread_of_seeds_and_of_tasks() -> None:
    def width(values: list[list[float]]) -> float:
        low, high = two_way_interval(values, samples=500, seed=3)
        return high - low

    assert width([[5.0] * 6] * 4) == 0
    by_task = [[0.0, 2.0, 4.0, 6.0, 8.0, 10.0]] * 4
    by_seed = [[0.0] * 6, [2.0] * 6, [8.0] * 6, [10.0] * 6]
    both = [
        [one + two for one, two in zip(a, b, strict=True)]
        for a, b in zip(by_task, by_seed, strict=True)
    ]
    assert width(by_task) > 3
    assert width(by_seed) > 3
    assert width(both) > max(width(by_task), width(by_seed))


def test_auc_by_hand_and_its_interval() -> None:
    # Pairs (good, bad): 3>1, 3>2, 2>1 are in order, 2=2 counts one half.
    value, low, high = auc_interval([3, 2, 1, 2], [True, True, False, False], [0, 1, 0, 1], seed=1)
    assert value == pytest.approx(3.5 / 4)
    assert 0 <= low <= value <= high <= 1
    draw = random.Random(3)
    good = [place % 2 == 0 for place in range(400)]
    noise = [draw.gauss(1.0 if one else 0.0, 1.0) for one in good]
    tasks = [place // 2 for place in range(400)]
    value, low, high = auc_interval(noise, good, tasks, seed=2)
    # Two normals one deviation apart: 0.760.
    assert low < 0.760 < high
    assert 0.05 < high - low < 0.15
    assert auc_interval(noise, good, tasks, seed=2) == (value, low, high)
    with pytest.raises(ValueError, match="good texts and bad ones"):
        auc_interval([1.0], [True], [0], seed=0)


def test_calibration_by_hand() -> None:
    # Two good texts of weight 1/4 and one bad of 1/2, predictions 0.9 and 0.7, and 0.95.
    found = calibration("coherence", [0.9, 0.7, 0.95], [True, True, False])
    assert found.bins == (
        CalibrationBin("coherence", 7, 1, 0.7, 1.0),
        CalibrationBin("coherence", 9, 2, 0.933333, 0.333333),
    )
    assert found.error == pytest.approx(0.25 * 0.3 + 0.75 * 0.6)
    (one,) = calibration("coherence", [1.0, 1.0], [True, False]).bins
    assert (one.bin, one.predicted, one.observed) == (9, 1.0, 0.5)
    assert calibration("coherence", [0.3], [True]).bins == ()


def test_rank_correlation_with_ties() -> None:
    assert spearman([1, 2, 3], [0.1, 5.0, 900.0]) == pytest.approx(1.0)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1.0)
    # Ranks 1.5, 1.5, 3 and 1, 2, 3.
    assert spearman([7, 7, 8], [1, 2, 3]) == pytest.approx(1.5 / (1.5 * 2) ** 0.5)
    assert spearman([1, 1], [1, 2]) is None
