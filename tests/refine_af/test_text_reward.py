"""A reward of plain functions: weighed, checked, and given a prompt's own columns in training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from refine_dagster.refine_af.feedback import Reward
from refine_dagster.refine_af.reward import RewardPartError


def length(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[int]:
    """Characters of the completion."""
    return [len(text) for text in completions]


def correct(
    prompts: Sequence[str], completions: Sequence[str], answer: Sequence[str], **columns: Any
) -> list[float]:
    return [float(text == right) for text, right in zip(completions, answer, strict=True)]


def test_parts_are_weighed_into_one_number() -> None:
    reward = Reward({"length": length, "correct": correct}, {"length": 0.5})
    assert reward(["p", "q"], ["ab", "abc"], answer=["ab", "x"]) == [2.0, 1.5]
    assert [(part.name, part.meaning) for part in reward.parts] == [
        ("length", "Characters of the completion."),
        ("correct", ""),
    ]
    assert Reward(length)(["p"], ["abc"]) == [3.0]
    assert [part.name for part in Reward(length).parts] == ["length"]


def test_rollouts_are_scored_with_the_columns_of_their_prompts() -> None:
    reward = Reward({"correct": correct}).with_columns({"p": {"answer": "a"}, "q": {"answer": "b"}})
    scored = reward.score_rollouts(["p", "q", "q"], ["a", "a", "b"], [True, True, False])
    assert [one.reward for one in scored] == [1.0, 0.0, 1.0]
    assert [one.scores for one in scored] == [{"correct": 1.0}, {"correct": 0.0}, {"correct": 1.0}]
    # There is no format gate: what was cut off is scored like the rest.
    assert all(one.instance.format_valid for one in scored)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([1.0], "gave 1 values for 2 completions"),
        ([1.0, float("nan")], "gave nan as the value of a completion"),
        ([1.0, "high"], "gave 'high' as the value of a completion"),
    ],
)
def test_what_is_not_one_finite_number_a_completion_is_refused(
    values: list[Any], problem: str
) -> None:
    with pytest.raises(RewardPartError, match=problem) as raised:
        Reward({"odd": lambda **columns: values})(["p", "q"], ["a", "b"])
    assert "reward part odd" in str(raised.value)


def test_a_weight_of_no_part_is_refused() -> None:
    with pytest.raises(ValueError, match="weights of no part: lenght"):
        Reward(length, {"lenght": 2.0})
