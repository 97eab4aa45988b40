"""The automated feedback: a completion in, its instance, the judge's parts and a reward out.

One place for what reinforcement learning is rewarded by and what the datasets are scored by, so
that both mean the same. The format gate stands before the judge: text that cannot be read as one
input and one output is never judged, and costs a fixed reward.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from refine_dagster.refine_af.instance_prompt import Instance, Triple, read_instance
from refine_dagster.refine_af.judge import Judge, Scores
from refine_dagster.refine_af.reward_rule import RewardRule


@dataclass(frozen=True)
class ScoredInstance:
    """A completion read and scored.

    Attributes:
        instance: what was read, with the gate's reason where it refuses it.
        scores: the judge's raw parts; None where the gate refuses.
        reward: the rule's reward; the fixed one where the gate refuses.
    """

    instance: Instance
    scores: Scores | None
    reward: float


@dataclass(frozen=True)
class Feedback:
    """Scores completions of `instance_prompt`.

    Attributes:
        judge: gives the parts.
        rule: weighs them.
        invalid_reward: reward of a completion that fails the format gate.
    """

    judge: Judge
    rule: RewardRule
    invalid_reward: float

    def score(
        self, instructions: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> list[ScoredInstance]:
        """One scored instance a completion, in order.

        Args:
            instructions: the instruction that each completion is for.
            completions: the texts after `Input:`.
            finished: False where the model stopped on length.

        Raises:
            ValueError: the three differ in length.
        """
        instances = [
            read_instance(text, finished=whole)
            for text, whole in zip(completions, finished, strict=True)
        ]
        triples = [
            Triple(instruction, instance.input, instance.output)
            for instruction, instance in zip(instructions, instances, strict=True)
            if instance.format_valid
        ]
        judged = iter(self.judge.score(triples) if triples else [])
        return [
            self._rewarded(instance, next(judged))
            if instance.format_valid
            else ScoredInstance(instance, None, self.invalid_reward)
            for instance in instances
        ]

    def whitened(self, base: Sequence[Scores]) -> Feedback:
        """This feedback with the rule's parts standardised over the base policy's scores.

        Where the base policy has no valid instance there is nothing to standardise over, and the
        rule stays as it is.
        """
        return replace(self, rule=self.rule.whitened(base)) if base else self

    def weigh(self, scored: Sequence[ScoredInstance]) -> list[ScoredInstance]:
        """The same scores with this feedback's rewards; nothing is judged again."""
        return [
            one if one.scores is None else self._rewarded(one.instance, one.scores)
            for one in scored
        ]

    def _rewarded(self, instance: Instance, scores: Scores) -> ScoredInstance:
        return ScoredInstance(instance, scores, self.rule.reward(scores))
