"""The automated feedback: a completion in, its instance, the judge's parts and a reward out.

One place for what reinforcement learning is rewarded by and what the datasets are scored by, so
that both mean the same. The format gate stands before the judge: text that cannot be read as one
input and one output is never judged, and costs a fixed reward.

The judge that a row of `feedback_judge` speaks of, loaded, and the feedback made with it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import Any

from refine_dagster.config.learning import JudgeConfig, RewardConfig
from refine_dagster.judge.judge import Judge, Scores, loaded_judge
from refine_dagster.judge.published import PUBLISHED, find_published_models, loaded_published_judge
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import checkpoint_folder
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.instance import Instance, read_instance
from refine_dagster.refine_af.reward import PRESETS, RewardRule, repetition
from refine_dagster.refine_af.reward_parts import with_parts
from refine_dagster.warehouse.checkpoints import CheckpointStore


@dataclass(frozen=True)
class ScoredInstance:
    """A completion read and scored.

    Attributes:
        instance: what was read, with the gate's reason where it refuses it.
        scores: the raw parts; None where the gate refuses.
        reward: the rule's reward; the fixed one where the gate refuses.
    """

    instance: Instance
    scores: Scores | None
    reward: float


@dataclass(frozen=True)
class Feedback:
    """Scores completions of `instance_prompt`.

    Attributes:
        judge: scores the parts.
        rule: weighs them.
        invalid_reward: reward of a completion that fails the format gate; see `whitened`.
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
        examples = [
            Example(instruction, instance.input, instance.output)
            for instruction, instance in zip(instructions, instances, strict=True)
            if instance.format_valid
        ]
        judged = iter(self.judge.score(examples) if examples else [])
        return [
            self._rewarded(instance, next(judged))
            if instance.format_valid
            else ScoredInstance(instance, None, self.invalid_reward)
            for instance in instances
        ]

    def score_rollouts(
        self, instructions: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> list[ScoredInstance]:
        """`score` for all the rollouts of one training step, less the rule's diversity term.

        The term looks at outputs: an input that several instructions share may suit them all. The
        parts are as `score` gives them. What fails the format gate keeps its fixed reward, and
        takes no part in what counts as repeated.
        """
        scored = self.score(instructions, completions, finished)
        if not self.rule.diversity:
            return scored
        valid = [place for place, one in enumerate(scored) if one.scores is not None]
        repeated = repetition(
            [instructions[place] for place in valid],
            [scored[place].instance.output for place in valid],
        )
        for place, share in zip(valid, repeated, strict=True):
            charged = scored[place].reward - self.rule.diversity * share
            scored[place] = replace(scored[place], reward=charged)
        return scored

    def whitened(self, base: Sequence[Scores]) -> Feedback:
        """This feedback with the rule's parts standardised over the base policy's scores.

        Presets differ in scale, so a fixed reward behind the gate could be more than a valid but
        poor instance earns, and a policy would learn to fail the gate. Therefore the gate never
        gives more than the worst of these valid ones.

        The diversity term is then counted in standard deviations of these rewards: what a preset
        pays at most differs by a factor of four, and a fixed charge would drown one and spare the
        other.

        Where the base policy has no valid instance there is nothing to standardise over, and the
        rule stays as it is.
        """
        if not base:
            return self
        rule = self.rule.whitened(base)
        rewards = [rule.reward(scores) for scores in base]
        rule = replace(rule, diversity=rule.diversity * pstdev(rewards))
        return replace(self, rule=rule, invalid_reward=min(self.invalid_reward, min(rewards)))

    def weigh(self, scored: Sequence[ScoredInstance]) -> list[ScoredInstance]:
        """The same scores with this feedback's rewards; nothing is judged again."""
        return [
            ScoredInstance(one.instance, None, self.invalid_reward)
            if one.scores is None
            else self._rewarded(one.instance, one.scores)
            for one in scored
        ]

    def _rewarded(self, instance: Instance, scores: Scores) -> ScoredInstance:
        return ScoredInstance(instance, scores, self.rule.reward(scores))


@contextmanager
def open_judge(
    row: Mapping[str, Any], store: CheckpointStore, device: Device, config: JudgeConfig
) -> Iterator[Judge]:
    """The judge of the row: a checkpoint in the store, or the published models.

    Raises:
        CheckpointError: the checkpoint is gone.
        JudgeError: the judge is not the one that the row was made of.
    """
    if row["kind"] == PUBLISHED:
        models = find_published_models(config)
        with loaded_published_judge(models, config, device, row["fingerprint"]) as published:
            yield published
    else:
        folder = checkpoint_folder(store, "feedback_judge", row["checkpoint_hash"])
        with loaded_judge(folder, device) as trained:
            yield trained


def feedback_of(judge: Judge, config: RewardConfig, base_scores: Sequence[Scores] = ()) -> Feedback:
    """The scores of the judge and the config's reward parts, weighed behind the format gate.

    Args:
        base_scores: the base policy's scores, over which the config field `whiten` standardises.

    Raises:
        RegistryError: a reward part is not registered, or its package is broken.
        RewardPartError: a reward part's name is taken.
    """
    preset = PRESETS[config.preset]
    weights = {**preset.weights, **config.parts}
    rule = replace(preset, weights=weights, diversity=config.diversity)
    feedback = Feedback(with_parts(judge, config.parts), rule, config.invalid_reward)
    return feedback.whitened(base_scores) if config.whiten else feedback
