"""Reinforcement learning from automated feedback: REFINE-AF's stage 2, on TRL's GRPO.

The policy writes several instances of each instruction; the judge's reward of each, relative to
its group's mean, weighs the gradient of its tokens (GRPO, arXiv 2402.03300), with a penalty on the
KL divergence to the base policy. The paper used PPO [methods A]; TRL has none any more, and of its
trainers GRPO needs no value model. Coefficients, learning rate and sizes are not published: knobs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from refine_dagster import progress
from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.language_model import ModelRef, loaded_model, save_adapter
from refine_dagster.profile import InstanceKnobs, ReinforcementKnobs
from refine_dagster.refine_af.feedback import Feedback, ScoredInstance
from refine_dagster.refine_af.instance_prompt import STOP
from refine_dagster.training.rollouts import sample_rollouts
from refine_dagster.training.trainer_session import (
    TrainerSession,
    TrainingError,
    listen,
    lora,
    trainer_session,
)

# With no penalty the trainer would not measure the divergence; this weight changes nothing else.
MEASURING_WEIGHT = 1e-12
WARMUP_SHARE = 0.1


@dataclass(frozen=True)
class PolicyPrompt:
    """An instruction and the prompt that asks the policy for its instance."""

    instruction_id: str
    instruction: str
    prompt: str


@dataclass(frozen=True)
class PolicyStep:
    """One optimiser step; the columns of table `rl_policy_checkpoint_steps`.

    The judge's parts are means over the rollouts that pass the format gate, None where none does.
    """

    step: int
    reward: float
    naturalness: float | None
    coherence: float | None
    understandability: float | None
    reward_model: float | None
    format_valid: float
    kl: float
    entropy: float
    length: float
    diversity: float
    loss: float


@dataclass(frozen=True)
class PolicyTraining:
    """A trained policy's steps, in order."""

    steps: list[PolicyStep]


def train_policy(
    base: ModelRef,
    prompts: Sequence[PolicyPrompt],
    feedback: Feedback,
    knobs: ReinforcementKnobs,
    sampling: InstanceKnobs,
    out: Path,
    device: Device,
    salt: str,
) -> PolicyTraining:
    """Train a LoRA policy on the prompts' rewards and save its adapter in `out`.

    Args:
        base: the base policy, also the reference of the KL penalty.
        prompts: in any order; of prompts with equal text one is trained on.
        feedback: scores instances; the only source of reward.
        sampling: bounds the length of rollouts. Temperature is `knobs.temperature`, and there is
            no nucleus, since the gradient is that of the whole distribution.
        out: folder of the adapter; made if it does not exist.
        salt: names all noise: equal arguments give equal files on one machine.

    Raises:
        TrainingError: there are no prompts, or the loss is no longer a number.
    """
    from datasets import Dataset

    chosen = {
        row.prompt: row for row in sorted(prompts, key=lambda row: row.instruction_id, reverse=True)
    }
    rows = sorted(chosen.values(), key=lambda row: row.instruction_id)
    if not rows:
        raise TrainingError(
            "there are no instructions to train the policy on",
            fix="raise self_instruct.target, or give more seeds",
        )
    dataset = Dataset.from_list(
        [
            {
                "prompt": row.prompt,
                "instruction_id": row.instruction_id,
                "instruction": row.instruction,
            }
            for row in rows
        ]
    )
    from trl import GRPOTrainer

    rollouts = _Rollouts(chosen, knobs, sampling, salt)
    rewards = _Rewards(feedback)
    steps: list[PolicyStep] = []
    with (
        progress.task("reinforcement", total=knobs.steps) as advance,
        trainer_session(device, "reinforcement", salt) as session,
        loaded_model(base, device) as loaded,
    ):
        trainer = GRPOTrainer(
            model=loaded.model,
            reward_funcs=rewards,
            args=_config(session, len(rows), knobs, sampling),
            train_dataset=dataset,
            processing_class=loaded.tokenizer,
            peft_config=lora(knobs.lora_rank, knobs.lora_alpha),
            rollout_func=rollouts,
        )

        def heard(step: int, logs: Mapping[str, float]) -> None:
            steps.append(rewards.step(step, logs))
            advance(1, reward=steps[-1].reward, kl=steps[-1].kl)

        listen(trainer, heard)
        trainer.train()
        save_adapter(trainer.model, out)
    return PolicyTraining(steps)


def _config(
    session: TrainerSession, prompts: int, knobs: ReinforcementKnobs, sampling: InstanceKnobs
) -> Any:
    """GRPO's arguments: a group of rollouts is a micro-batch, a step accumulates its groups."""
    from trl import GRPOConfig

    return GRPOConfig(
        **session.arguments(knobs.steps, knobs.learning_rate),
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=max(1, round(WARMUP_SHARE * knobs.steps)),
        per_device_train_batch_size=knobs.group_size,
        gradient_accumulation_steps=min(knobs.prompts_per_step, prompts),
        num_generations=knobs.group_size,
        max_completion_length=sampling.max_new_tokens,
        temperature=knobs.temperature,
        beta=knobs.kl_coefficient or MEASURING_WEIGHT,
        scale_rewards="group",
        loss_type="dapo",
    )


class _Rollouts:
    """TRL's `rollout_func`: prompts in, each repeated `group_size` times; token ids out."""

    def __init__(
        self,
        rows: Mapping[str, PolicyPrompt],
        knobs: ReinforcementKnobs,
        sampling: InstanceKnobs,
        salt: str,
    ) -> None:
        self._rows = rows
        self._knobs = knobs
        self._sampling = sampling
        self._salt = salt

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        # The trainer hands on each prompt once for every rollout of its group, side by side.
        group = self._knobs.group_size
        ids = [self._rows[prompt].instruction_id for prompt in prompts[::group]]
        step = trainer.state.global_step + 1
        rollouts = sample_rollouts(
            trainer.accelerator.unwrap_model(trainer.model),
            trainer.processing_class,
            prompts[::group],
            [
                [request_seed(self._salt, "rollout", step, name, i) for i in range(group)]
                for name in ids
            ],
            max_new_tokens=self._sampling.max_new_tokens,
            temperature=self._knobs.temperature,
            stop=STOP,
        )
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            # None: the trainer computes log-probabilities itself.
            "logprobs": None,
            "text": [rollout.text for rollout in rollouts],
            "finished": [rollout.finished for rollout in rollouts],
        }


class _Quiet:
    """Shows nothing of what the judge tells."""

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
        return None

    def finish(self, handle: int) -> None:
        return None

    def note(self, message: str) -> None:
        return None


class _Rewards:
    """TRL's reward function; keeps what the step's row needs."""

    __name__ = "automated_feedback"

    def __init__(self, feedback: Feedback) -> None:
        self._feedback = feedback
        self._scored: list[ScoredInstance] = []
        self._texts: list[str] = []

    def __call__(
        self, *, instruction: list[str], text: list[str], finished: list[bool], **rest: Any
    ) -> list[float]:
        # The judge would announce a task of its own at every step.
        with progress.reporting(_Quiet()):
            self._scored = self._feedback.score(instruction, text, finished)
        self._texts = text
        return [scored.reward for scored in self._scored]

    def step(self, step: int, logs: Mapping[str, float]) -> PolicyStep:
        """The row of a step: the last rollouts' rewards and what the trainer logged of them."""
        parts = [scored.scores for scored in self._scored if scored.scores is not None]

        def mean(values: list[float]) -> float | None:
            return fmean(values) if values else None

        return PolicyStep(
            step=step,
            reward=fmean(scored.reward for scored in self._scored),
            naturalness=mean([scores.naturalness for scores in parts]),
            coherence=mean([scores.coherence for scores in parts]),
            understandability=mean([scores.understandability for scores in parts]),
            reward_model=mean([scores.reward_model for scores in parts]),
            format_valid=fmean(scored.instance.format_valid for scored in self._scored),
            kl=logs["kl"],
            entropy=logs["entropy"],
            length=logs["completions/mean_length"],
            diversity=distinct_bigrams(self._texts),
            loss=logs["loss"],
        )


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Share of different pairs of neighbouring words among all such pairs; 0 where there is none.

    >>> distinct_bigrams(["a b c", "a b d"])
    0.75
    """
    pairs = [pair for text in texts for pair in zip(text.split(), text.split()[1:], strict=False)]
    return len(set(pairs)) / len(pairs) if pairs else 0.0
