"""Arms by their names, and what an arm changes of a profile."""

from __future__ import annotations

import pytest

from refine_dagster.comparison.arms import ArmError, parse_arms
from refine_dagster.profile import load_profile

PROFILE = load_profile("offline", environment={})


def test_names_become_arms_in_order_and_once() -> None:
    arms = parse_arms("base, self_instruct,grpo,ppo/balanced,grpo/refine_af", PROFILE)
    assert [arm.name for arm in arms] == ["base", "self_instruct", "grpo/refine_af", "ppo/balanced"]
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


@pytest.mark.parametrize("names", ["", ",", "base,dpo", "ppo/nice", "base/balanced"])
def test_what_is_no_arm_is_named(names: str) -> None:
    with pytest.raises(ArmError, match="base, seeds_only, self_instruct") as caught:
        parse_arms(names, PROFILE)
    for wrong in ("dpo", "ppo/nice", "base/balanced"):
        assert (wrong in str(caught.value.what)) == (wrong in names)
