"""Feedback gates the format, judges the rest in order, and weighs what the judge says."""

from __future__ import annotations

from dataclasses import replace
from statistics import pstdev

import pytest

from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from tests.builders.fake_judge import FakeJudge, scores_of

PEAR = scores_of(naturalness=0.9, coherence=0.8, understandability=0.95, reward_model=2.0)
FIG = scores_of(naturalness=0.3, coherence=0.1, understandability=0.4, reward_model=-1.0)
RULE = PRESETS["refine_af"]


def _feedback() -> tuple[Feedback, FakeJudge]:
    judge = FakeJudge.of_outputs({"a pear": PEAR, "a fig": FIG})
    return Feedback(judge, RULE, invalid_reward=-1.0), judge


def test_rewards_are_the_rule_over_the_judges_parts() -> None:
    feedback, judge = _feedback()
    scored = feedback.score(
        ["Name a fruit.", "Name one that is sweet."],
        [" <noinput>\nOutput: a pear", " green, purple\nOutput: a fig"],
        [True, True],
    )
    assert [one.scores for one in scored] == [PEAR, FIG]
    assert [one.reward for one in scored] == [RULE.reward(PEAR), RULE.reward(FIG)]
    assert judge.asked == [
        [
            Example("Name a fruit.", "", "a pear"),
            Example("Name one that is sweet.", "green, purple", "a fig"),
        ]
    ]


def test_what_the_gate_refuses_is_not_judged_and_keeps_its_place() -> None:
    feedback, judge = _feedback()
    scored = feedback.score(
        ["One.", "Two.", "Three.", "Four.", "Five."],
        [
            " red, blue",
            " <noinput>\nOutput: a fig",
            " <noinput>\nOutput:",
            " <noinput>\nOutput: a pear",
            " x\nOutput: a pear\nOutput: a fig",
        ],
        [True, True, True, False, True],
    )
    assert [one.instance.problem for one in scored] == [
        "no_output_field",
        None,
        "empty_output",
        "unfinished",
        "several_outputs",
    ]
    assert [one.scores for one in scored] == [None, FIG, None, None, None]
    assert [one.reward for one in scored] == [-1.0, RULE.reward(FIG), -1.0, -1.0, -1.0]
    assert judge.asked == [[Example("Two.", "", "a fig")]]


def test_the_judge_is_left_alone_where_nothing_is_valid() -> None:
    feedback, judge = _feedback()
    assert [one.reward for one in feedback.score(["One."], ["nothing"], [True])] == [-1.0]
    assert feedback.score([], [], []) == []
    assert judge.asked == []


def test_a_copied_input_is_no_matter_of_format() -> None:
    feedback, _ = _feedback()
    (scored,) = feedback.score(["Repeat it."], [" a pear\nOutput: a pear"], [True])
    assert scored.scores == PEAR


def test_lists_of_different_length_are_refused() -> None:
    feedback, _ = _feedback()
    with pytest.raises(ValueError, match="shorter"):
        feedback.score(["One.", "Two."], [" <noinput>\nOutput: a fig"], [True])


def test_a_whitened_diversity_term_is_counted_in_deviations_of_the_base_policys_rewards() -> None:
    judge = FakeJudge.of_outputs({"a pear": PEAR, "a fig": FIG})
    for preset in ("refine_af", "balanced"):
        feedback = Feedback(judge, replace(PRESETS[preset], diversity=2.0), invalid_reward=-1.0)
        whitened = feedback.whitened([PEAR, FIG])
        rewards = [whitened.rule.reward(one) for one in (PEAR, FIG)]
        assert whitened.rule.diversity == pytest.approx(2.0 * pstdev(rewards))
        asked = (["One.", "Two."], [" <noinput>\nOutput: a pear"] * 2, [True, True])
        for plain, charged in zip(
            whitened.score(*asked), whitened.score_rollouts(*asked), strict=True
        ):
            # Both instructions got the same answer: the whole charge is due.
            assert plain.reward - charged.reward == pytest.approx(2.0 * pstdev(rewards))
