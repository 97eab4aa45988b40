"""The held-out split and the gain measured on it."""

from __future__ import annotations

import random

import pytest

from refine_dagster.draws import SplitError, held_out_split
from refine_dagster.statistics import paired_gain

IDS = [f"id{n}" for n in range(400)]


def test_split_is_a_partition_of_about_the_share() -> None:
    train, held_out = held_out_split(IDS, 0.25, "salt")
    assert sorted(train + held_out) == sorted(IDS)
    assert not set(train) & set(held_out)
    assert 70 <= len(held_out) <= 130


def test_split_does_not_depend_on_order_or_repetition() -> None:
    shuffled = random.Random(1).sample(IDS, len(IDS)) + IDS[:7]
    assert held_out_split(shuffled, 0.25, "salt") == held_out_split(IDS, 0.25, "salt")


def test_split_moves_nobody_across_when_one_is_removed() -> None:
    before = set(held_out_split(IDS, 0.25, "salt")[1])
    after = set(held_out_split(IDS[1:], 0.25, "salt")[1])
    assert before - {IDS[0]} == after


def test_split_depends_on_the_salt() -> None:
    assert held_out_split(IDS, 0.25, "salt") != held_out_split(IDS, 0.25, "other")


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(share: float) -> None:
    train, held_out = held_out_split(["a", "b", "c"], share, "salt")
    assert train
    assert held_out


def test_one_instruction_cannot_be_split() -> None:
    with pytest.raises(SplitError, match="1 instructions cannot be split"):
        held_out_split(["a", "a"], 0.25, "salt")


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
