"""Reinforcement learning from automated feedback: REFINE-AF's stage 2, by one of three algorithms.

The policy writes several instances of each instruction, the judge rewards them, and the rewards
weigh the gradient of their tokens, at a price for leaving the base policy. The paper used PPO
[methods A] and publishes neither its coefficients nor its sizes: they are config. This module is
the door to all three algorithms; what they share is `policy_steps`, what stops them `policy_guard`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refine_dagster.config.dataset import InstanceConfig
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, load_tokenizer
from refine_dagster.models.memory import TrainingPlan, budgeted_batch
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.training.colocated_engine import engine_bytes, engine_for
from refine_dagster.training.policy_steps import (
    LOWER,
    WORK,
    PolicyPrompt,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
    distinct_bigrams,
)
from refine_dagster.training.ppo import train_by_ppo
from refine_dagster.training.trainer_session import TrainingError
from refine_dagster.training.trl_policy import train_by_trl

__all__ = ["PolicyPrompt", "PolicyStep", "PolicyTraining", "distinct_bigrams", "train_policy"]


def train_policy(
    base: ModelRef,
    prompts: Sequence[PolicyPrompt],
    feedback: Feedback,
    config: ReinforcementConfig,
    sampling: InstanceConfig,
    out: Path,
    device: Device,
    run_seed: str,
    resume: Path | None = None,
) -> PolicyTraining:
    """Train a policy on the prompts' rewards by `config.algorithm` and save it in `out`.

    Args:
        base: the policy to begin with (the base model, or the policy of the round before), also the
            reference of the KL penalty.
        prompts: in any order; of prompts with equal text one is trained on.
        feedback: scores instances; the only source of reward.
        sampling: bounds the length of rollouts. Temperature is `config.temperature`, and there is
            no nucleus, since the gradient is that of the whole distribution.
        out: folder of the adapter, or of the whole model where `config.weights` is `full`; made if
            it does not exist.
        run seed: names all noise: equal arguments give equal files on one machine.
        resume: folder for the state, saved every `config.save_every` steps. A training that finds
            the state of a killed one there goes on from it and ends with the same files and steps;
            so a folder belongs to one set of arguments. The caller removes it. None saves none.

    Raises:
        TrainingError: there are no prompts, all weights of a quantized model are to be trained, an
            engine is asked for that cannot be had, or the loss is no longer a number.
        MemoryFullError: the model does not fit on the card, or not with a single rollout.
    """
    if config.weights == "full" and device.quantization != "none":
        raise TrainingError(
            "weights of four bits cannot be trained",
            where="knobs reinforcement.weights and device.quantization",
            fix="set reinforcement.weights to `lora`, or device.quantization to `none`",
        )
    chosen = {
        row.prompt: row for row in sorted(prompts, key=lambda row: row.instruction_id, reverse=True)
    }
    rows = sorted(chosen.values(), key=lambda row: row.instruction_id)
    if not rows:
        raise TrainingError(
            "there are no instructions to train the policy on",
            fix="raise self_instruct.target, or give more seeds",
        )
    engine = engine_for(config, device)
    plan = _plan(base, rows, config, sampling)
    if engine == "vllm":
        plan = replace(plan, engine=engine_bytes(config, device))
    task = PolicyTask(
        base,
        rows,
        feedback,
        config,
        sampling,
        out,
        device,
        run_seed,
        resume,
        batch=budgeted_batch(base, plan, device, LOWER),
        engine=engine,
        length=plan.length,
    )
    return train_by_ppo(task) if config.algorithm == "ppo" else train_by_trl(task)


def _plan(
    base: ModelRef,
    prompts: Sequence[PolicyPrompt],
    config: ReinforcementConfig,
    sampling: InstanceConfig,
) -> TrainingPlan:
    """What the training asks of memory: PPO reads a minibatch at once, TRL a group."""
    tokenizer = load_tokenizer(base)
    longest = max(len(ids) for ids in tokenizer([row.prompt for row in prompts])["input_ids"])
    rollouts = min(config.prompts_per_step, len(prompts)) * config.group_size
    own = config.algorithm == "ppo"
    return TrainingPlan(
        WORK,
        batch=math.ceil(rollouts / config.minibatches) if own else config.group_size,
        length=longest + sampling.max_new_tokens,
        answer=sampling.max_new_tokens,
        trained=config.weights,
        lora_rank=config.lora_rank,
        trainer="own" if own else "trl",
        rollouts=rollouts,
        reference=config.weights == "full",
        value_head=own,
    )
