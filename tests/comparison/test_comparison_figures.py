"""Figures worked out by hand, and intervals that resample tasks and random seeds."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from refine_dagster.comparison.arms import Arm
from refine_dagster.comparison.figures import figures_of
from refine_dagster.comparison.study import (
    CellFolder,
    CellKey,
    CellResult,
    DatasetResult,
    PolicyResult,
)
from refine_dagster.evaluation.answers import TaskScore
from tests.builders.fake_judge import PART_NAMES
from tests.builders.losses import losses_of

POLICY = PolicyResult(
    steps=4,
    ended_by="steps",
    kl=0.1,
    reward_before=0.0,
    reward_after=0.5,
    gain=0.5,
    gain_low=0.2,
    gain_high=0.8,
    seconds=10.0,
)


def cell(arm: str, seed: int, size: int, scores: list[float], part: float = 0.5) -> CellResult:
    return CellResult(
        arm=arm,
        random_seed=seed,
        size=size,
        tasks=tuple(
            TaskScore(arm, f"t{place}", f"c{place % 2}", 1, one, one / 2)
            for place, one in enumerate(scores)
        ),
        dataset=None
        if arm == "base"
        else DatasetResult(size, 1.0, dict.fromkeys(PART_NAMES, part), 1),
        policy=POLICY if "/" in arm else None,
        answers={"coherence": 0.25, "naturalness": None},
        losses=losses_of(*(5 - one / 20 for one in scores)),
        seconds=1.0,
    )


CELLS = [
    cell("base", 0, 0, [10.0, 10.0, 10.0, 10.0]),
    cell("self_instruct", 1, 8, [10.0, 20.0, 30.0, 40.0], 0.2),
    cell("self_instruct", 2, 8, [20.0, 20.0, 30.0, 40.0], 0.3),
    cell("grpo/balanced", 1, 8, [12.0, 20.0, 20.0, 60.0], 0.6),
    cell("grpo/balanced", 2, 8, [22.0, 20.0, 20.0, 60.0], 0.9),
]


def test_means_deviations_and_categories() -> None:
    found = figures_of(CELLS, (), tie_margin=0, samples=50, run_seed="s")
    base, plain, refined = found.arms
    assert (base.arm, base.size, base.rouge_l, base.deviation) == ("base", 0, 10.0, None)
    assert plain.rouge_l == pytest.approx((25.0 + 27.5) / 2)
    assert plain.deviation == pytest.approx(2.5 / math.sqrt(2))
    assert plain.macro == pytest.approx((25.0 + 27.5) / 2)
    assert refined.exact_match == pytest.approx(refined.rouge_l / 2)
    assert (plain.rows, plain.random_seeds) == (8, 2)


def test_an_arm_is_compared_task_by_task() -> None:
    found = figures_of(CELLS, ("self_instruct", "base"), tie_margin=0, samples=200, run_seed="s")
    pairs = [(one.arm, one.against) for one in found.duels]
    of_measure = [
        ("grpo/balanced", "self_instruct"),
        ("self_instruct", "base"),
        ("grpo/balanced", "base"),
    ]
    assert pairs == of_measure * 2
    assert [one.measure for one in found.duels] == ["reference_loss"] * 3 + ["rouge_l"] * 3
    duel = found.duels[3]
    # By task: +2, 0, -10, +20 for either random seed.
    assert (duel.wins, duel.ties, duel.losses) == (2, 1, 1)
    assert duel.mean_delta == pytest.approx(3.0)
    assert duel.delta_low < 3.0 < duel.delta_high
    assert duel.win_share == 0.5
    assert duel.sign_test == 1.0


def test_a_margin_makes_ties() -> None:
    found = figures_of(CELLS, ("self_instruct",), tie_margin=2.0, samples=50, run_seed="s")
    duel = found.duels[1]
    assert (duel.wins, duel.ties, duel.losses) == (1, 2, 1)


def test_a_lower_loss_wins_and_kinds_of_tasks_stand_apart() -> None:
    found = figures_of(CELLS, ("self_instruct",), tie_margin=2.0, samples=50, run_seed="s")
    duel = found.duels[0]
    # A point of ROUGE-L is 0.05 nats here, and the margin is one of ROUGE-L alone.
    assert (duel.measure, duel.wins, duel.ties, duel.losses) == ("reference_loss", 2, 1, 1)
    assert duel.mean_delta == pytest.approx(-3.0 / 20)
    assert {kind: delta.tasks for kind, delta in duel.kinds.items()} == {
        "generation": 2,
        "classification": 2,
    }
    assert duel.kinds["generation"].mean == pytest.approx(4 / 20)
    assert duel.kinds["classification"].mean == pytest.approx(-10 / 20)


ENDS = [
    cell("own_answers", 1, 8, [10.0, 10.0, 20.0, 20.0]),
    cell("own_answers", 2, 8, [10.0, 10.0, 20.0, 20.0]),
    cell("seeds_only", 1, 8, [30.0, 30.0, 40.0, 40.0]),
    cell("seeds_only", 2, 8, [30.0, 30.0, 40.0, 40.0]),
]


def test_an_arm_stands_between_own_answers_and_peoples() -> None:
    arms = [*CELLS, *ENDS]
    found = {
        one.arm: one for one in figures_of(arms, (), tie_margin=0, samples=99, run_seed="s").losses
    }
    ways = {arm: one.way for arm, one in found.items()}
    assert ways == {
        "base": pytest.approx(-0.25),
        "self_instruct": pytest.approx(0.5625),
        "grpo/balanced": pytest.approx(0.7125),
        "own_answers": pytest.approx(0.0),
        "seeds_only": pytest.approx(1.0),
    }
    interval = found["seeds_only"].way_interval
    assert interval == pytest.approx((1.0, 1.0))
    refined = found["grpo/balanced"]
    assert refined.loss == pytest.approx(5 - 29.25 / 20)
    assert refined.uncalibrated == pytest.approx(refined.loss + 1)
    assert refined.kinds["classification"] == pytest.approx(5 - 40 / 20)
    assert refined.temperature == 1.5
    assert refined.way_interval is not None
    assert refined.way_interval.low < 0.7125 < refined.way_interval.high


def test_without_both_ends_there_is_no_way() -> None:
    found = figures_of([*CELLS, *ENDS[:2]], (), tie_margin=0, samples=9, run_seed="s")
    assert {one.way for one in found.losses} == {None}


def test_policies_are_counted_once_a_seed() -> None:
    wider = [*CELLS, cell("grpo/balanced", 1, 16, [1.0] * 4), cell("self_instruct", 1, 16, [1] * 4)]
    [policy] = figures_of(wider, (), tie_margin=0, samples=50, run_seed="s").policies
    assert (policy.random_seeds, policy.gains_above_zero) == (2, 2)
    assert policy.ended_by == {"steps": 2}


def test_the_link_of_reward_and_score_is_within_sizes_and_seeds() -> None:
    links = {
        one.part: one for one in figures_of(CELLS, (), tie_margin=0, samples=9, run_seed="s").links
    }
    assert links["coherence"].of_answers == pytest.approx(0.25)
    assert links["naturalness"].of_answers is None
    # In either seed the arm with the higher part has the higher score.
    assert links["coherence"].of_datasets is not None
    assert links["coherence"].of_datasets > 0.8
    assert links["coherence"].datasets == 4


def key_of(cell: CellResult) -> CellKey:
    return CellKey(Arm(cell.arm, "refined"), cell.random_seed, cell.size)


def test_a_cell_read_back_is_the_cell_written(tmp_path: Path) -> None:
    folder = CellFolder(tmp_path / "cells")
    base, refined = key_of(CELLS[0]), CellKey(Arm("grpo/balanced", "refined"), 1, 8)
    assert not folder.has(refined)
    for one in CELLS:
        folder.write(key_of(one), one)
    assert folder.read(refined) == CELLS[3]
    assert folder.read(base) == CELLS[0]
    folder.write(base, replace(CELLS[0], seconds=2.0))
    assert folder.read(base).seconds == 2.0
