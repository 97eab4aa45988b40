"""The arithmetic of a plan, on rates and lengths that are made up."""

from __future__ import annotations

from dataclasses import replace

import pytest

from refine_dagster.config.profile import load_profile
from refine_dagster.models.device import Device
from refine_dagster.models.padding import ROWS
from refine_dagster.planning.behaviour import Behaviour, Lengths
from refine_dagster.planning.estimate import (
    BYTES_A_REQUEST,
    LONGEST,
    SECONDS_A_STEP,
    Planner,
    StagePlan,
)
from refine_dagster.planning.rates import Rates

RATES = Rates(
    share=1.0,
    load=0.5,
    rows=ROWS,
    read=1000.0,
    written=160.0,
    step=0.02,
    step_row=0.005,
    full=500.0,
    fine_tuning=250.0,
    policy=125.0,
)
LENGTHS = Lengths(
    propose=200,
    instance=100,
    rewrite=120,
    review=230,
    respond=50,
    lesson=40,
    start=60,
    text=30,
    answer=20,
    output=5,
    instruction=10,
    longest=220,
)
BEHAVIOUR = Behaviour(propose=100, instance=20, rewrite=10, respond=5, accepted=4.0)
DEVICE = Device("cpu", "float32", 1, True)
PLANNER = Planner(
    load_profile(environment={}), 222, 350, LENGTHS, BEHAVIOUR, DEVICE, True, None, RATES
)


def stage(planner: Planner, name: str) -> StagePlan:
    [found] = [one for one in planner.stages() if one.stage == name]
    return found


def with_config(**overrides: object) -> Planner:
    named = {name.replace("__", "."): value for name, value in overrides.items()}
    return replace(PLANNER, profile=load_profile(overrides=named, environment={}))


def test_the_base_model_costs_its_tokens_and_steps() -> None:
    planner = with_config(
        base_model__steps=10, base_model__batch_size=2, base_model__sequence_length=100
    )
    made = stage(planner, "base model")
    assert made.trained_tokens == 2000
    assert made.seconds == pytest.approx(2000 / RATES.full + 10 * SECONDS_A_STEP)


def test_proposals_are_whole_rounds_in_passes_of_fixed_shape() -> None:
    planner = with_config(
        self_instruct__target=100,
        self_instruct__requests_per_round=20,
        self_instruct__max_new_tokens=128,
    )
    made = stage(planner, "proposals")
    # 25 requests are accepted from, so two rounds of 20, each in two passes of the longest length.
    assert (made.requests, made.prompt_tokens, made.completion_tokens) == (40, 8000, 4000)
    a_step = RATES.step + ROWS * RATES.step_row
    assert made.seconds == pytest.approx(8000 / RATES.read + 2 * 2 * 128 * a_step)
    assert made.disk == 40 * BYTES_A_REQUEST


def test_without_determinism_what_has_ended_is_dropped() -> None:
    planner = replace(
        with_config(generator__batch_size=50), device=replace(DEVICE, deterministic=False)
    )
    made = stage(planner, "evaluation")
    assert made.requests == 4 * 350
    longest = LONGEST * BEHAVIOUR.respond
    passes = 4 * 7
    written = passes * longest * RATES.step + 4 * 350 * BEHAVIOUR.respond * RATES.step_row
    assert made.seconds == pytest.approx(4 * 350 * 50 / RATES.read + written)


def test_all_arms_take_the_same_steps() -> None:
    planner = with_config(
        self_instruct__target=96, teams_rl__evolved_seeds=0, supervised__batch_size=8
    )
    one, two = stage(planner, "fine-tuned model"), stage(planner, "baselines")
    assert one.trained_tokens == 12 * 3 * 8 * LENGTHS.lesson
    assert two.trained_tokens == 2 * one.trained_tokens
    assert one.seconds == pytest.approx(
        one.trained_tokens / RATES.fine_tuning + 36 * SECONDS_A_STEP
    )
    assert stage(planner, "evolution").requests == 0


def test_held_out_samples_that_are_written_already_are_not_counted() -> None:
    planner = with_config(
        self_instruct__target=100,
        teams_rl__evolved_seeds=0,
        reinforcement__held_out_share=0.5,
        reinforcement__held_out_samples=4,
    )
    asked = [stage(planner, name).requests for name in ("instances", "policy", "dataset")]
    assert asked == [100, 50 * 7, 50]


def test_a_second_policy_round_proposes_and_trains_again() -> None:
    one, two = with_config(rounds=1), with_config(rounds=2)
    assert stage(two, "proposals").requests == 2 * stage(one, "proposals").requests
    assert stage(two, "policy").assets == ("rl_policy_checkpoint", "rl_policy_checkpoint_round_2")
    assert stage(two, "policy").trained_tokens == 2 * stage(one, "policy").trained_tokens


def test_a_policy_start_is_a_stage_where_there_is_one() -> None:
    assert "policy start" not in [one.stage for one in PLANNER.stages()]
    started = stage(with_config(instances__start_steps=30), "policy start")
    assert started.trained_tokens == 30 * 8 * LENGTHS.start


def test_what_is_not_known_has_no_time() -> None:
    unknown = replace(PLANNER, rates=None)
    assert {one.seconds for one in unknown.stages()} == {None}
    assert unknown.rest is None
    published = with_config(judge__kind="published")
    assert stage(published, "judge").seconds is None
    assert stage(published, "evaluation").seconds is not None
