"""Reinforcement learning from automated feedback: REFINE-AF's stage 2, by one of three algorithms.

The policy writes several instances of each instruction, the judge rewards them, and the rewards
weigh the gradient of their tokens, at a price for leaving the base policy. The paper used PPO
[methods A] and publishes neither its coefficients nor its sizes: they are knobs. This module is the
door to all three algorithms; what they share is `policy_steps`, what stops them `policy_guard`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from refine_dagster.device import Device
from refine_dagster.knobs import InstanceKnobs, ReinforcementKnobs
from refine_dagster.language_model import ModelRef, load_tokenizer
from refine_dagster.memory_budget import TrainingPlan, budgeted_batch
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
    knobs: ReinforcementKnobs,
    sampling: InstanceKnobs,
    out: Path,
    device: Device,
    salt: str,
    resume: Path | None = None,
) -> PolicyTraining:
    """Train a policy on the prompts' rewards by `knobs.algorithm` and save it in `out`.

    Args:
        base: the policy to begin with (the base model, or the policy of the round before), also the
            reference of the KL penalty.
        prompts: in any order; of prompts with equal text one is trained on.
        feedback: scores instances; the only source of reward.
        sampling: bounds the length of rollouts. Temperature is `knobs.temperature`, and there is
            no nucleus, since the gradient is that of the whole distribution.
        out: folder of the adapter, or of the whole model where `knobs.weights` is `full`; made if
            it does not exist.
        salt: names all noise: equal arguments give equal files on one machine.
        resume: folder for the state, saved every `knobs.save_every` steps. A training that finds
            the state of a killed one there goes on from it and ends with the same files and steps;
            so a folder belongs to one set of arguments. The caller removes it. None saves none.

    Raises:
        TrainingError: there are no prompts, all weights of a quantized model are to be trained, an
            engine is asked for that cannot be had, or the loss is no longer a number.
        MemoryFullError: the model does not fit on the card, or not with a single rollout.
    """
    if knobs.weights == "full" and device.quantization != "none":
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
    engine = engine_for(knobs, device)
    plan = _plan(base, rows, knobs, sampling)
    if engine == "vllm":
        plan = replace(plan, engine=engine_bytes(knobs, device))
    task = PolicyTask(
        base,
        rows,
        feedback,
        knobs,
        sampling,
        out,
        device,
        salt,
        resume,
        batch=budgeted_batch(base, plan, device, LOWER),
        engine=engine,
        length=plan.length,
    )
    return train_by_ppo(task) if knobs.algorithm == "ppo" else train_by_trl(task)


def _plan(
    base: ModelRef,
    prompts: Sequence[PolicyPrompt],
    knobs: ReinforcementKnobs,
    sampling: InstanceKnobs,
) -> TrainingPlan:
    """What the training asks of memory: PPO reads a minibatch at once, TRL a group."""
    tokenizer = load_tokenizer(base)
    longest = max(len(ids) for ids in tokenizer([row.prompt for row in prompts])["input_ids"])
    rollouts = min(knobs.prompts_per_step, len(prompts)) * knobs.group_size
    own = knobs.algorithm == "ppo"
    return TrainingPlan(
        WORK,
        batch=math.ceil(rollouts / knobs.minibatches) if own else knobs.group_size,
        length=longest + sampling.max_new_tokens,
        answer=sampling.max_new_tokens,
        trained=knobs.weights,
        lora_rank=knobs.lora_rank,
        trainer="own" if own else "trl",
        rollouts=rollouts,
        reference=knobs.weights == "full",
        value_head=own,
    )
