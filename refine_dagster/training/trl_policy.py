"""GRPO and RLOO, on TRL's trainers: the completions of one instruction are judged by each other.

GRPO (arXiv 2402.03300) divides a reward's distance from its group's mean by the group's deviation
and adds a KL penalty for each token to the loss. RLOO (arXiv 2402.14740) takes the distance from
the mean of the group's *other* rewards, and the KL penalty of the whole completion off the reward.
So one `kl_coefficient` is a larger penalty under RLOO, by about the length of a completion. Neither
needs a value model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster import progress
from refine_dagster.generation.decoding import Rollout
from refine_dagster.hashing import canonical_json
from refine_dagster.home import write_atomically
from refine_dagster.models.batches import with_smaller_batches
from refine_dagster.models.language_model import loaded_model
from refine_dagster.training.colocated_engine import (
    engine_arguments,
    engine_rollouts,
    engine_room,
)
from refine_dagster.training.policy_steps import (
    LOWER,
    WORK,
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
    TrainerSession,
    lora,
    replace_printing,
    trainer_session,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainerCallback

# Without a penalty the trainer would not measure the divergence; this weight changes nothing else.
MEASURING_WEIGHT = 1e-12
# Written last into a saved state's folder: without it the state is not whole.
STEPS_FILE = "policy_steps.json"


def train_by_grpo(task: PolicyTask) -> PolicyTraining:
    return _train_by(_grpo, task)


def train_by_rloo(task: PolicyTask) -> PolicyTraining:
    return _train_by(_rloo, task)


def _train_by(make: Any, task: PolicyTask) -> PolicyTraining:
    """Train by the trainer that `make` makes.

    Where memory runs out, training begins again from its last saved state with fewer rollouts in a
    pass and as many in a step.
    """
    plan = task.plan(task.config.group_size, trainer="trl")
    return with_smaller_batches(
        task.device,
        WORK,
        task.config.group_size,
        plan.batch,
        lambda size: _train(make, task, size, plan.length),
        LOWER,
        repeats=task.prompts_per_step,
    )


def _train(make: Any, task: PolicyTask, size: int, length: int) -> PolicyTraining:
    from datasets import Dataset

    config = task.config
    rewards = StepRewards(task.reward)
    rollouts = _Rollouts(task, rewards)
    saved, steps = _last_state(task.resume)
    with (
        progress.task(WORK, total=config.steps) as advance,
        trainer_session(task.device, "reinforcement", task.run_seed) as session,
        engine_room(task.engine) as room,
        loaded_model(task.base, task.device) as loaded,
    ):
        common = {
            "model": loaded.model,
            "reward_funcs": rollouts.automated_feedback,
            "train_dataset": Dataset.from_list([asdict(row) for row in task.prompts]),
            "processing_class": loaded.tokenizer,
            "peft_config": lora(loaded.model, config.lora_rank, config.lora_alpha)
            if config.weights == "lora"
            else None,
        }
        arguments = _arguments(task, session, size)
        if task.engine == "vllm":
            arguments |= engine_arguments(config, length)
        with _reference(loaded.model):
            trainer = make(arguments, rollouts, common)
        room.append(trainer)
        if steps:
            _skip_passes(trainer, len(steps) // (len(task.prompts) // task.prompts_per_step))
            advance(len(steps), reward=steps[-1].reward, kl=steps[-1].kl)

        def on_log(step: int, logs: Mapping[str, float]) -> None:
            figures = {**logs, "length": logs["completions/mean_length"]}
            steps.append(rewards.row(step, figures))
            advance(1, reward=steps[-1].reward, kl=steps[-1].kl)

        replace_printing(trainer, on_log)
        trainer.add_callback(guard_callback(steps, config))
        trainer.add_callback(_saving_callback(steps))
        trainer.train(resume_from_checkpoint=str(saved) if saved else None)
        save_policy(trainer.model, loaded.tokenizer, task.out)
    return PolicyTraining(steps, guard_of(steps, config) or "steps")


@contextmanager
def _reference(model: PreTrainedModel) -> Iterator[None]:
    """Where all weights are trained, have TRL take a copy of the model as the reference policy.

    It would read the base's folder again, without the adapters of earlier rounds.
    """
    from trl.trainer import grpo_trainer, rloo_trainer

    reading = grpo_trainer.create_model_from_path
    for module in (grpo_trainer, rloo_trainer):
        module.create_model_from_path = lambda *_, **__: copy.deepcopy(model)
    try:
        yield
    finally:
        for module in (grpo_trainer, rloo_trainer):
            module.create_model_from_path = reading


def _arguments(task: PolicyTask, session: TrainerSession, size: int) -> dict[str, Any]:
    """What both configs share: `size` rollouts, an even part of a group, are a micro-batch."""
    config = task.config
    shared = {
        **session.arguments(config.steps, config.learning_rate),
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": task.warmup_steps,
        "per_device_train_batch_size": size,
        "gradient_accumulation_steps": task.prompts_per_step * config.group_size // size,
        "num_generations": config.group_size,
        "max_completion_length": task.max_new_tokens,
        "temperature": config.temperature,
        "beta": config.kl_coefficient or MEASURING_WEIGHT,
    }
    if task.resume is None:
        return shared
    saving = {"save_strategy": "steps", "save_steps": config.save_every, "save_total_limit": 2}
    return {**shared, **saving, "output_dir": str(task.resume)}


def _grpo(arguments: dict[str, Any], rollouts: _Rollouts, common: Mapping[str, Any]) -> Any:
    from trl import GRPOConfig, GRPOTrainer

    config = GRPOConfig(**arguments, scale_rewards="group", loss_type="dapo")
    return GRPOTrainer(**common, args=config, rollout_func=rollouts)


def _rloo(arguments: dict[str, Any], rollouts: _Rollouts, common: Mapping[str, Any]) -> Any:
    """TRL's RLOO trainer has no `rollout_func`: the rollouts come in where it would generate."""
    from trl import RLOOConfig, RLOOTrainer

    class Trainer(RLOOTrainer):
        _asked: list[str]

        def _generate(self, prompts: list[str]) -> Any:
            self._asked = prompts
            return super()._generate(prompts)

        def _generate_single_turn(self, prompt_ids: Any, images: Any, fields: Any) -> list[Any]:
            written: list[Any] = rollouts(self._asked, self)["completion_ids"]
            return written

    return Trainer(**common, args=RLOOConfig(**arguments))


class _Rollouts:
    """TRL's `rollout_func`: prompts in, each repeated `group_size` times; token ids out."""

    def __init__(self, task: PolicyTask, rewards: StepRewards) -> None:
        self._task = task
        self._rewards = rewards
        self._rows = {row.prompt: row for row in task.prompts}
        self._last: list[Rollout] = []

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, Any]:
        # The trainer hands on each prompt once for every rollout of its group, side by side.
        asked = [self._rows[prompt] for prompt in prompts[:: self._task.config.group_size]]
        step = trainer.state.global_step + 1
        # None: the trainer computes log-probabilities itself.
        logs: list[list[float]] | None = None
        if self._task.engine == "vllm":
            rollouts, logs = self._of_engine(trainer, asked, step)
        else:
            rollouts = self._task.rollouts(
                trainer.accelerator.unwrap_model(trainer.model),
                trainer.processing_class,
                asked,
                step,
            )
        self._last = rollouts
        return {
            "prompt_ids": [rollout.prompt_ids for rollout in rollouts],
            "completion_ids": [rollout.completion_ids for rollout in rollouts],
            "logprobs": logs,
        }

    def automated_feedback(self, *, instruction: list[str], **rest: Any) -> list[float]:
        """TRL's reward function: the last rollouts' texts, which end before their stop string."""
        return self._rewards.score(instruction, self._last)

    def _of_engine(
        self, trainer: Any, asked: Sequence[PolicyPrompt], step: int
    ) -> tuple[list[Rollout], list[list[float]]]:
        task = self._task
        slots = [(row, slot) for row in asked for slot in range(task.config.group_size)]
        return engine_rollouts(
            trainer.vllm_generation.llm,
            [trainer.processing_class(row.prompt)["input_ids"] for row, _ in slots],
            [task.seed_of(step, row, slot) for row, slot in slots],
            max_new_tokens=task.max_new_tokens,
            temperature=task.config.temperature,
            stop=task.stop,
        )


def _saving_callback(steps: list[PolicyStep]) -> TrainerCallback:
    """A callback that saves the steps with a state."""
    from transformers import TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

    class SavingCallback(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
            write_atomically(folder / STEPS_FILE, canonical_json([step.record() for step in steps]))

    return SavingCallback()


def _skip_passes(trainer: Trainer, passes: int) -> None:
    """Let the sampler draw the orders of the passes that were taken before the state was saved.

    Its generator is in no saved state: without this a resumed training would see the prompts in the
    order of the first pass again.
    """
    fresh = trainer._get_train_sampler

    def advanced(*arguments: Any) -> Any:
        sampler = fresh(*arguments)
        for _ in range(passes):
            list(sampler)
        return sampler

    trainer._get_train_sampler = advanced


def _last_state(resume: Path | None) -> tuple[Path | None, list[PolicyStep]]:
    """The folder of the last whole state and its steps; None and no steps where there is none."""
    files = [] if resume is None else resume.glob(f"*/{STEPS_FILE}")
    last = max(files, key=lambda file: int(file.parent.name.rpartition("-")[2]), default=None)
    if last is None:
        return None, []
    rows = json.loads(last.read_text(encoding="utf-8"))
    return last.parent, [PolicyStep.of_record(row) for row in rows]
