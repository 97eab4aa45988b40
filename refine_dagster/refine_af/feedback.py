"""The automated feedback: a completion in; its instance, scores and reward out.

Reinforcement learning is rewarded by it and datasets are scored by it, so both mean the same. The
format gate comes first: a completion that cannot be read as one input and one output is not judged
and gets a fixed reward. Beside it stands `Reward`, of plain functions, for any prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from statistics import pstdev
from typing import Any

from refine_dagster.config.learning import JudgeConfig, RewardConfig
from refine_dagster.judge.judge import Judge, Part, Scores, loaded_judge
from refine_dagster.judge.published import PUBLISHED, find_published_models, loaded_published_judge
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example, Instance, read_instance
from refine_dagster.refine_af.reward import (
    PRESETS,
    ExtendedJudge,
    OpenedPart,
    RewardFunction,
    RewardRule,
    further_parts,
    needs_model,
    repetition,
    values_of,
    with_parts,
)
from refine_dagster.registry import REWARD_PARTS
from refine_dagster.warehouse.checkpoints import CheckpointStore


@dataclass(frozen=True)
class ScoredInstance:
    """A completion, read and scored; without `scores` where the format gate refuses it."""

    instance: Instance
    scores: Scores | None
    reward: float


@dataclass(frozen=True)
class Feedback:
    """Scores completions of `instance_prompt`; what fails the format gate gets `invalid_reward`."""

    judge: Judge
    rule: RewardRule
    invalid_reward: float

    @property
    def parts(self) -> Sequence[Part]:
        return self.judge.parts

    @property
    def opened(self) -> dict[str, Any]:
        """`opened_parts`, for manifests: fingerprints of parts with a model; empty without any."""
        opened = self.judge.opened if isinstance(self.judge, ExtendedJudge) else {}
        return {"opened_parts": opened} if opened else {}

    def score(
        self, instructions: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> list[ScoredInstance]:
        """The scored instance of each completion, a text after `Input:` for an instruction.

        `finished` is False where the model stopped on length.
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
        scores = iter(self.judge.score(examples) if examples else [])
        return [
            self._rewarded(instance, next(scores))
            if instance.format_valid
            else ScoredInstance(instance, None, self.invalid_reward)
            for instance in instances
        ]

    def score_rollouts(
        self, instructions: Sequence[str], completions: Sequence[str], finished: Sequence[bool]
    ) -> list[ScoredInstance]:
        """`score` for all rollouts of a training step, with the rule's diversity term.

        The term looks at outputs, as several instructions may share a good input; completions that
        fail the format gate are left out of it.
        """
        scored = self.score(instructions, completions, finished)
        if not self.rule.diversity:
            return scored
        valid = [at for at, instance in enumerate(scored) if instance.scores is not None]
        repeated = repetition(
            [instructions[at] for at in valid], [scored[at].instance.output for at in valid]
        )
        for at, share in zip(valid, repeated, strict=True):
            charged = scored[at].reward - self.rule.diversity * share
            scored[at] = replace(scored[at], reward=charged)
        return scored

    def whitened(self, base: Sequence[Scores]) -> Feedback:
        """This feedback with the rule's parts standardised over the base policy's scores.

        Presets differ in scale by up to a factor of four. So the reward of failing the gate is at
        most that of the worst of these valid instances, or a policy could learn to fail it; and the
        diversity term is counted in standard deviations of these rewards. Without scores nothing
        changes.
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
            ScoredInstance(old.instance, None, self.invalid_reward)
            if old.scores is None
            else self._rewarded(old.instance, old.scores)
            for old in scored
        ]

    def _rewarded(self, instance: Instance, scores: Scores) -> ScoredInstance:
        return ScoredInstance(instance, scores, self.rule.reward(scores))


@contextmanager
def open_judge(
    row: Mapping[str, Any],
    store: CheckpointStore,
    device: Device,
    config: JudgeConfig,
    base: ModelRef,
) -> Iterator[Judge]:
    """Load the judge of a row of `feedback_judge`: a checkpoint, or the published models.

    Raises:
        CheckpointError: the checkpoint is gone.
        JudgeError: the judge cannot be loaded, or is not the one of the row.
    """
    if row["kind"] == PUBLISHED:
        models = find_published_models(config)
        with loaded_published_judge(models, config, device, row["fingerprint"]) as published:
            yield published
    else:
        folder = store.verified_folder("feedback_judge", row["checkpoint_hash"])
        with loaded_judge(folder, device, base) as trained:
            yield trained


def rule_of(config: RewardConfig) -> RewardRule:
    """The preset of a config with its further parts, not whitened."""
    preset = PRESETS[config.preset]
    return replace(preset, weights={**preset.weights, **config.parts}, diversity=config.diversity)


def needs_student(config: RewardConfig) -> bool:
    """Whether the rule of a config has a part that needs a model."""
    return any(needs_model(REWARD_PARTS.entry(name)) for name in further_parts(rule_of(config)))


def feedback_of(
    judge: Judge,
    config: RewardConfig,
    base_scores: Sequence[Scores] = (),
    opened: Mapping[str, OpenedPart] | None = None,
) -> Feedback:
    """The scores of the judge and the config's reward parts, weighed behind the format gate.

    The config field `whiten` standardises parts over `base_scores`, the base policy's. `opened` are
    the functions of reward parts that need a model.
    """
    rule = rule_of(config)
    extended = with_parts(judge, further_parts(rule), opened)
    feedback = Feedback(extended, rule, config.invalid_reward)
    return feedback.whitened(base_scores) if config.whiten else feedback


class Reward:
    """Reward functions weighed into one number; itself such a function, without a format gate.

    A function takes `prompts` and `completions` and any further columns, and returns one number a
    completion, as in TRL and verifiers.

    Args:
        parts: a function, or several by name.
        weights: weight of each part; 1 where none is given.
        columns: prompt -> further columns that its completions are scored with in training, such as
            a right answer; the same columns for every prompt.

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
        return [Part(name, function.__doc__ or "") for name, function in self._functions.items()]

    def with_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> Reward:
        return Reward(self._functions, self._rule.weights, columns)

    def __call__(
        self, prompts: Sequence[str], completions: Sequence[str], **columns: Sequence[Any]
    ) -> list[float]:
        return [self._rule.reward(row) for row in self._scores(prompts, completions, columns)]

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
        return [{name: values[name][row] for name in values} for row in range(len(completions))]
