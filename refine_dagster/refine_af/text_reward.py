"""A reward of plain functions, for any prompts: what `train_policy` takes beside the feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refine_dagster.judge.judge import Part
from refine_dagster.prompts.instance import Instance
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.refine_af.reward import RewardRule
from refine_dagster.refine_af.reward_parts import RewardFunction, values_of


class Reward:
    """Reward functions weighed into one number; itself such a function.

    A function takes `prompts` and `completions` and any further columns, and returns one number a
    completion, as in TRL and verifiers:

        reward(prompts, completions, **columns) -> list[float]

    There is no format gate: every completion is scored.

    Args:
        parts: a function, or several by name.
        weights: weight of each part; 1 where none is given.
        columns: prompt -> further columns that its completions are scored with in training, such
            as a right answer; the same columns for every prompt.

    Raises:
        ValueError: a weight is of no part.

    >>> def length(prompts, completions, **columns):
    ...     return [len(text) for text in completions]
    >>> Reward({"length": length}, {"length": 0.5})(["Name a pet."], ["a cat"])
    [2.5]
    """

    def __init__(
        self,
        parts: RewardFunction | Mapping[str, RewardFunction],
        weights: Mapping[str, float] | None = None,
        columns: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if not isinstance(parts, Mapping):
            parts = {getattr(parts, "__name__", "reward"): parts}
        weights = weights or {}
        if unknown := sorted(weights.keys() - parts.keys()):
            raise ValueError(f"weights of no part: {', '.join(unknown)}")
        self._functions = dict(parts)
        self._rule = RewardRule("reward", {name: weights.get(name, 1.0) for name in parts}, 0.0)
        self._columns = columns or {}

    @property
    def parts(self) -> Sequence[Part]:
        """What the reward is made of."""
        return [Part(name, function.__doc__ or "") for name, function in self._functions.items()]

    def with_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> Reward:
        """The same reward with other columns."""
        return Reward(self._functions, self._rule.weights, columns)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        """The reward of each completion, in order."""
        return [self._rule.reward(one) for one in self._scores(prompts, completions, columns)]

    def score_rollouts(
        self, prompts: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> list[ScoredInstance]:
        """The rollouts of one training step, scored; a completion is an output without input."""
        names = dict.fromkeys(name for row in self._columns.values() for name in row)
        columns = {name: [self._columns[prompt][name] for prompt in prompts] for name in names}
        return [
            ScoredInstance(Instance("", text, None), scores, self._rule.reward(scores))
            for text, scores in zip(
                completions, self._scores(prompts, completions, columns), strict=True
            )
        ]

    def _scores(
        self, prompts: Sequence[str], completions: Sequence[str], columns: Mapping[str, Any]
    ) -> list[dict[str, float]]:
        values = {
            name: values_of(function, name, prompts, completions, columns)
            for name, function in self._functions.items()
        }
        return [{name: values[name][place] for name in values} for place in range(len(completions))]
