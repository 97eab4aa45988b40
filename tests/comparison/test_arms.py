"""Arms by their names, and what an arm changes of a profile."""

from __future__ import annotations

import pytest

from refine_dagster.comparison.arms import ArmError, parse_arms, parse_methods
from refine_dagster.config.profile import load_profile

PROFILE = load_profile("offline", environment={})


def test_names_become_arms_in_order_and_once() -> None:
    arms = parse_arms("base, self_instruct,grpo,ppo/refine_af,grpo/balanced", PROFILE)
    assert [arm.name for arm in arms] == ["base", "self_instruct", "grpo/balanced", "ppo/refine_af"]
    assert [arm.kind for arm in arms] == ["base", "self_instruct", "refined", "refined"]


def test_a_refined_arm_sets_algorithm_and_preset_alone() -> None:
    [arm] = parse_arms("ppo/balanced", PROFILE)
    changed = arm.profile(PROFILE)
    assert (changed.reinforcement.algorithm, changed.reward.preset) == ("ppo", "balanced")
    left = {"algorithm"}
    assert changed.reinforcement.model_dump(exclude=left) == PROFILE.reinforcement.model_dump(
        exclude=left
    )
    assert changed.supervised == PROFILE.supervised


def test_an_algorithm_alone_takes_the_preset_of_the_profile() -> None:
    profile = load_profile("offline", {"reward.preset": "coherence_only"}, environment={})
    assert parse_arms("rloo", profile)[0].name == "rloo/coherence_only"


@pytest.mark.parametrize("names", ["", ",", "base,dqn", "ppo/nice", "base/balanced"])
def test_what_is_no_arm_is_named(names: str) -> None:
    with pytest.raises(ArmError, match="base, seeds_only, own_answers") as caught:
        parse_arms(names, PROFILE)
    for wrong in ("dqn", "ppo/nice", "base/balanced"):
        assert (wrong in str(caught.value.what)) == (wrong in names)


def test_methods_stand_behind_the_arms_beside_them_in_their_own_order() -> None:
    arms = parse_methods("both, self_instruct,both,teams_rl", "base,seeds_only", PROFILE)
    assert [arm.name for arm in arms] == [
        "base",
        "seeds_only",
        "method/self_instruct",
        "method/teams_rl",
        "method/both",
    ]
    assert [arm.method for arm in arms] == [None, None, "self_instruct", "teams_rl", "both"]
    assert arms[2].profile(PROFILE) is PROFILE
    assert [arm.name for arm in parse_methods("teams_rl", "", PROFILE)] == ["method/teams_rl"]


@pytest.mark.parametrize("names", ["", ",", "teams_rl,wizard", "method/both"])
def test_what_is_no_method_is_named(names: str) -> None:
    with pytest.raises(ArmError, match="name self_instruct, teams_rl, both") as caught:
        parse_methods(names, "base", PROFILE)
    for wrong in ("wizard", "method/both"):
        assert (wrong in caught.value.what) == (wrong in names)


def test_an_arm_of_the_pool_cannot_stand_beside_methods() -> None:
    with pytest.raises(ArmError, match=r"self_instruct, grpo/balanced cannot stand beside"):
        parse_methods("both", "base,self_instruct,grpo", PROFILE)


def test_the_best_answers_and_student_progress_are_arms() -> None:
    arms = parse_arms("best/agreement,best/influence,dpo/influence,grpo/influence", PROFILE)
    assert [(arm.kind, arm.criterion) for arm in arms] == [
        ("best", "agreement"),
        ("best", "influence"),
        ("refined", None),
        ("refined", None),
    ]
    assert arms[0].profile(PROFILE) is PROFILE
    changed = arms[2].profile(PROFILE)
    assert (changed.reinforcement.algorithm, changed.reward.preset) == ("dpo", "influence")
    for wrong in ("best", "best/length", "influence"):
        with pytest.raises(ArmError, match="judge, agreement, likelihood, influence"):
            parse_arms(wrong, PROFILE)
