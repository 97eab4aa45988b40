"""Presets mean what they say, the gate is never the better choice, and repetition is charged."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest

from refine_dagster.config.learning import RewardConfig
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS, repetition
from tests.builders.fake_judge import PART_NAMES, FakeJudge, scores_of

# Scores of a base policy: what is natural is understandable, and coherence goes its own way.
BASE = [
    scores_of(naturalness=0.9, coherence=0.2, understandability=0.92, reward_model=1.0),
    scores_of(naturalness=0.8, coherence=0.9, understandability=0.85, reward_model=2.0),
    scores_of(naturalness=0.2, coherence=0.1, understandability=0.30, reward_model=-3.0),
    scores_of(naturalness=0.7, coherence=0.6, understandability=0.75, reward_model=0.5),
]


def test_the_config_field_names_exactly_the_presets() -> None:
    named = get_args(RewardConfig.model_fields["preset"].annotation)
    assert set(named) == set(PRESETS)
    assert all(rule.name == name for name, rule in PRESETS.items())
    assert all(rule.diversity == 0 and rule.whitening is None for rule in PRESETS.values())


def test_coherence_only_hears_nothing_else() -> None:
    rule = PRESETS["coherence_only"]
    for scores in BASE:
        assert rule.reward(scores) == scores["coherence"]
        other = {**scores, "naturalness": 0.0, "reward_model": 99.0}
        assert rule.reward(other) == scores["coherence"]


@pytest.mark.parametrize("part", PART_NAMES)
def test_balanced_never_pays_for_less_of_a_part(part: str) -> None:
    rule = PRESETS["balanced"].whitened(BASE)
    for scores in BASE:
        more = {**scores, part: scores[part] + 0.05}
        assert rule.reward(more) > rule.reward(scores)


def test_balanced_gives_the_answer_as_much_as_all_the_rest() -> None:
    weights = PRESETS["balanced"].weights
    reading = weights["naturalness"] + weights["understandability"]
    assert weights["coherence"] == weights["reward_model"] + reading
    assert weights["reward_model"] == reading


def test_the_published_rule_prefers_what_is_harder_to_understand() -> None:
    """The known trouble, which is why there are other presets (docs/methods.md)."""
    rule = PRESETS["refine_af"].whitened(BASE)
    clear = BASE[1]
    assert rule.reward({**clear, "understandability": 0.5}) > rule.reward(clear)
    both = {**clear, "naturalness": 0.2, "understandability": 0.25}
    assert PRESETS["refine_af"].reward(both) > PRESETS["refine_af"].reward(clear)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_failing_the_gate_never_pays_more_than_the_worst_valid_instance(preset: str) -> None:
    base = [{**scores, "influence": place - 0.5} for place, scores in enumerate(BASE)]
    judge = FakeJudge.of_outputs({str(place): scores for place, scores in enumerate(base)})
    plain = Feedback(judge, PRESETS[preset], invalid_reward=-0.1)
    feedback = plain.whitened(base)
    completions = [f" <noinput>\nOutput: {place}" for place in range(len(base))]
    scored = feedback.score(["One."] * 5, [*completions, " no output"], [True] * 5)
    assert scored[4].scores is None
    assert scored[4].reward == min(-0.1, *(one.reward for one in scored[:4]))
    # Scored before the scale was known, and weighed afterwards: the same.
    before = plain.score(["One."] * 5, [*completions, " no output"], [True] * 5)
    assert feedback.weigh(before) == scored
    assert [one.scores for one in scored[:4]] == base


def test_a_low_reward_for_the_gate_stays() -> None:
    feedback = Feedback(FakeJudge.of_outputs({}), PRESETS["balanced"], invalid_reward=-50.0)
    assert feedback.whitened(BASE).invalid_reward == -50.0
    assert feedback.whitened([]) is feedback


def test_repetition_counts_other_instructions_only() -> None:
    instructions = ["one", "one", "two", "three"]
    texts = ["the big dog runs", "the big dog runs", "The big cat", "a fish"]
    # "the big" is in one of the two other instructions; "big dog" and "dog runs" in none.
    assert repetition(instructions, texts) == pytest.approx([1 / 6, 1 / 6, 1 / 4, 0.0])
    assert repetition(["a", "b", "c"], ["it is so", "it is so", "it is so"]) == [1.0, 1.0, 1.0]
    assert repetition(["a", "b"], ["word", ""]) == [0.0, 0.0]
    # The same bare word for two of three instructions; the third text only begins with it.
    assert repetition(["a", "b", "c"], ["6", "6", "6 cats"]) == [0.5, 0.5, 0.0]
    assert repetition([], []) == []
    with pytest.raises(ValueError, match="shorter"):
        repetition(["a"], [])


def test_only_rollouts_are_charged_for_repetition() -> None:
    table = {"a red sun": BASE[0], "a red dog": BASE[0], "green": BASE[1]}
    rule = replace(PRESETS["balanced"], diversity=0.5)
    feedback = Feedback(FakeJudge.of_outputs(table), rule, invalid_reward=-9.0)
    instructions = ["One.", "Two.", "Three.", "Four."]
    outputs = ["a red sun", "a red dog", "green"]
    completions = [*(f" <noinput>\nOutput: {output}" for output in outputs), " a red moon"]
    plain = feedback.score(instructions, completions, [True] * 4)
    charged = feedback.score_rollouts(instructions, completions, [True] * 4)
    paid = [one.reward - other.reward for one, other in zip(plain, charged, strict=True)]
    # Half of the first two's pairs are in one of the two other valid instructions.
    assert paid == pytest.approx([0.125, 0.125, 0.0, 0.0])
    assert [one.scores for one in charged] == [one.scores for one in plain]
    without = replace(feedback, rule=PRESETS["balanced"])
    assert without.score_rollouts(instructions, completions, [True] * 4) == plain
