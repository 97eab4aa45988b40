"""DPO on pairs of the policy's own completions, on TRL's trainer (arXiv 2305.18290).

Before the first step the policy writes `group_size` completions of each prompt, and they are
rewarded. The best and the worst of a prompt make a pair; a prompt whose completions are all worth
the same makes none. `kl_coefficient` is DPO's beta, the weight of the same penalty.

The completions are written once. So reward, parts, format, length and diversity of a step are those
of all completions, before training, and equal in every step; loss, entropy and KL are the step's.
The KL is estimated on the pairs: what the policy has lost of their probability, nats a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean
from typing import Any

from refine_dagster import progress
from refine_dagster.generation.decoding import Rollout
from refine_dagster.models.batches import with_smaller_batches
from refine_dagster.models.language_model import LoadedModel, loaded_model
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.training.policy_steps import (
    LOWER,
    WORK,
    PolicyPair,
    PolicyPrompt,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
    StepRewards,
    guard_callback,
    guard_of,
    save_policy,
)
from refine_dagster.training.trainer_session import (
    TrainingError,
    lora,
    replace_printing,
    trainer_session,
)


@dataclass(frozen=True)
class _Written:
    """A prompt's completions with their rewards."""

    prompt: PolicyPrompt
    rollouts: Sequence[Rollout]
    scored: Sequence[ScoredInstance]

    def pair(self) -> tuple[Rollout, Rollout, PolicyPair] | None:
        """The first best and the first worst completion; None where no reward differs."""
        rewards = [one.reward for one in self.scored]
        best, worst = rewards.index(max(rewards)), rewards.index(min(rewards))
        if rewards[best] == rewards[worst]:
            return None
        pair = PolicyPair(
            instruction=self.prompt.instruction,
            chosen=self.rollouts[best].text,
            rejected=self.rollouts[worst].text,
            chosen_reward=rewards[best],
            rejected_reward=rewards[worst],
        )
        return self.rollouts[best], self.rollouts[worst], pair


def train_by_dpo(task: PolicyTask) -> PolicyTraining:
    """Train a policy and save it in `task.out`.

    It keeps no state in `task.resume`: a training that was killed begins again.
    """
    if task.config.weights == "full":
        raise TrainingError(
            "DPO trains a LoRA update here, not all weights",
            where="config fields reinforcement.algorithm and reinforcement.weights",
            fix="set reinforcement.weights to `lora`, or take another algorithm",
        )
    batch = task.prompts_per_step
    plan = task.plan(2 * batch, trainer="trl")
    with loaded_model(task.base, task.device) as loaded:
        written, figures = _write(task, loaded)
    pairs = [pair for one in written if (pair := one.pair())]
    if not pairs:
        raise TrainingError(
            "all completions of each prompt have the same reward, so there are no pairs",
            fix="raise reinforcement.group_size or reinforcement.temperature",
        )
    rows = [
        {
            "prompt_ids": chosen.prompt_ids,
            "chosen_ids": chosen.completion_ids,
            "rejected_ids": rejected.completion_ids,
        }
        for chosen, rejected, _ in pairs
    ]
    start = max(1, plan.batch // 2)
    steps = with_smaller_batches(
        task.device, WORK, batch, start, partial(_train, task, rows, figures), LOWER
    )
    ended_by = guard_of(steps, task.config) or "steps"
    return PolicyTraining(steps, ended_by, [pair for *_, pair in pairs])


def _write(task: PolicyTask, loaded: LoadedModel) -> tuple[list[_Written], PolicyStep]:
    """Completions of the prompts that the steps would see, and their figures as of a step."""
    rewards = StepRewards(task.reward)
    group, wanted = task.config.group_size, task.config.steps * task.prompts_per_step
    prompts = task.prompts[:wanted]
    written: list[_Written] = []
    figures: list[PolicyStep] = []
    with progress.task("completions for pairs", total=len(prompts)) as advance:
        for start in range(0, len(prompts), task.prompts_per_step):
            asked = prompts[start : start + task.prompts_per_step]
            rollouts = task.rollouts(loaded.model, loaded.tokenizer, asked, step=0)
            rewards.score([row.instruction for row in asked for _ in range(group)], rollouts)
            scored = rewards.scored
            written += [
                _Written(
                    row,
                    rollouts[place * group : (place + 1) * group],
                    scored[place * group : (place + 1) * group],
                )
                for place, row in enumerate(asked)
            ]
            length = fmean(len(rollout.completion_ids) for rollout in rollouts)
            unknown = dict.fromkeys(("kl", "entropy", "loss"), 0.0)
            figures.append(rewards.row(0, {"length": length, **unknown}))
            advance(len(asked))
    return written, _mean_of(figures)


def _mean_of(steps: Sequence[PolicyStep]) -> PolicyStep:
    """The means of steps' figures; a part without a valid completion is left out of its mean."""
    parts: dict[str, float | None] = {}
    for name in steps[0].parts:
        values = [value for step in steps if (value := step.parts[name]) is not None]
        parts[name] = fmean(values) if values else None
    names = ("reward", "format_valid", "kl", "entropy", "length", "diversity", "loss")
    means = {name: fmean(getattr(step, name) for step in steps) for name in names}
    return PolicyStep(step=0, parts=parts, **means)


def _train(
    task: PolicyTask, rows: Sequence[dict[str, list[int]]], before: PolicyStep, size: int
) -> list[PolicyStep]:
    """Train with `size` pairs in a pass."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    class Trainer(DPOTrainer):
        """Takes pairs of token ids: as text, they would get an end-of-sequence token."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    config = task.config
    steps: list[PolicyStep] = []
    with (
        progress.task(WORK, total=config.steps) as advance,
        trainer_session(task.device, "dpo", task.run_seed) as session,
        loaded_model(task.base, task.device) as loaded,
    ):
        trainer = Trainer(
            model=loaded.model,
            args=DPOConfig(
                **session.arguments(config.steps, config.learning_rate),
                lr_scheduler_type="constant_with_warmup",
                warmup_steps=task.warmup_steps,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=task.prompts_per_step // size,
                beta=config.kl_coefficient,
                max_length=None,
            ),
            train_dataset=Dataset.from_list(list(rows)),
            processing_class=loaded.tokenizer,
            peft_config=lora(loaded.model, config.lora_rank, config.lora_alpha),
        )

        def on_log(step: int, logs: Mapping[str, float]) -> None:
            row = _step(step, before, logs, config.kl_coefficient)
            steps.append(row)
            advance(1, loss=row.loss, kl=row.kl)

        replace_printing(trainer, on_log)
        trainer.add_callback(guard_callback(steps, config))
        trainer.train()
        save_policy(trainer.model, loaded.tokenizer, task.out)
    return steps


def _step(number: int, before: PolicyStep, logs: Mapping[str, float], beta: float) -> PolicyStep:
    gained = (logs["rewards/chosen"] + logs["rewards/rejected"]) / (2 * beta) if beta else 0.0
    return PolicyStep(
        step=number,
        reward=before.reward,
        parts=before.parts,
        format_valid=before.format_valid,
        kl=-gained / before.length,
        entropy=logs["entropy"],
        length=before.length,
        diversity=before.diversity,
        loss=logs["loss"],
    )
