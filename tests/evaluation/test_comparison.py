"""Comparisons between arms: counts worked out by hand, and intervals that mean what they say."""

from __future__ import annotations

from dataclasses import fields
from itertools import product
from statistics import fmean

import pytest

from refine_dagster.evaluation.report import Comparison, compare, compare_arms
from refine_dagster.warehouse.tables import TABLES


def _compare(deltas: list[float], *, tie_margin: float = 0.0, samples: int = 2000) -> Comparison:
    theirs = {f"task {place}": 40.0 for place in range(len(deltas))}
    ours = {f"task {place}": 40.0 + delta for place, delta in enumerate(deltas)}
    return compare(
        "refine_af", "base", ours, theirs, tie_margin=tie_margin, samples=samples, seed=5
    )


def test_counts_and_means_are_those_worked_out_by_hand() -> None:
    found = _compare([10.0, 0.5, 0.0, -2.0])
    assert (found.tasks, found.wins, found.ties, found.losses) == (4, 2, 1, 1)
    assert found.mean_delta == pytest.approx(2.125)
    assert found.win_share == 0.5


def test_differences_up_to_the_margin_are_ties() -> None:
    found = _compare([10.0, 0.5, 0.0, -2.0, -0.5], tie_margin=0.5)
    assert (found.wins, found.ties, found.losses) == (1, 3, 1)
    assert found.mean_delta == pytest.approx(1.6)


def test_means_that_differ_by_rounding_alone_are_ties() -> None:
    ours, theirs = {"a": 100 * (0.1 + 0.2)}, {"a": 100 * 0.3}
    assert ours != theirs
    for first, second in ((ours, theirs), (theirs, ours)):
        found = compare("refine_af", "base", first, second, tie_margin=0.0, samples=100, seed=1)
        assert (found.wins, found.ties, found.losses) == (0, 1, 0)


def test_the_interval_of_equal_differences_is_that_difference() -> None:
    found = _compare([3.0] * 7)
    assert (found.delta_low, found.delta_high) == pytest.approx((3.0, 3.0))
    assert (found.win_share_low, found.win_share, found.win_share_high) == (1.0, 1.0, 1.0)


def test_the_interval_agrees_with_all_resamples_of_four_tasks() -> None:
    deltas = [1.0, 2.0, 3.0, 4.0]
    # Sums of 4 and 5 have 1 + 4 of the 256 resamples, under 2.5 %; sum 6 has 10 more: mean 1.5.
    exact = sorted(fmean(drawn) for drawn in product(deltas, repeat=4))
    assert (exact[int(0.025 * 256)], exact[int(0.975 * 256)]) == (1.5, 3.5)
    found = _compare(deltas, samples=20_000)
    assert (found.delta_low, found.delta_high) == pytest.approx((1.5, 3.5))


def test_the_win_share_has_the_binomial_interval() -> None:
    # 10 of 20 tasks won: 2.5 % and 97.5 % quantiles of Binomial(20, 1/2) / 20 are 6/20 and 14/20.
    found = _compare([1.0, -1.0] * 10, samples=20_000)
    assert (found.win_share_low, found.win_share_high) == pytest.approx((0.3, 0.7))


def test_every_arm_is_compared_with_those_before_it() -> None:
    scores = {
        "refine_af": {"a": 4.0, "b": 1.0},
        "self_instruct": {"b": 2.0, "a": 3.0},
        "base": {"a": 1.0, "b": 1.0},
        "seeds_only": {"a": 2.0, "b": 1.0},
    }
    found = compare_arms(scores, tie_margin=0.0, samples=100, run_seed="x")
    assert [(one.arm, one.against, one.wins, one.ties, one.losses) for one in found] == [
        ("seeds_only", "base", 1, 1, 0),
        ("self_instruct", "base", 2, 0, 0),
        ("self_instruct", "seeds_only", 2, 0, 0),
        ("refine_af", "base", 1, 1, 0),
        ("refine_af", "seeds_only", 1, 1, 0),
        ("refine_af", "self_instruct", 1, 0, 1),
    ]
    again = {arm: dict(reversed(tasks.items())) for arm, tasks in reversed(scores.items())}
    assert compare_arms(again, tie_margin=0.0, samples=100, run_seed="x") == found


def test_arms_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(ValueError, match="same tasks"):
        compare_arms(
            {"base": {"a": 1.0}, "refine_af": {"b": 1.0}}, tie_margin=0, samples=100, run_seed="x"
        )
    with pytest.raises(ValueError, match="at least one"):
        compare_arms({"base": {}, "refine_af": {}}, tie_margin=0, samples=100, run_seed="x")
    with pytest.raises(ValueError, match="unknown arms"):
        compare_arms({"another": {"a": 1.0}}, tie_margin=0, samples=100, run_seed="x")


def test_rows_have_the_columns_of_their_table() -> None:
    names = [field.name for field in fields(Comparison)]
    assert names == list(TABLES["evaluation_comparisons"].columns)
