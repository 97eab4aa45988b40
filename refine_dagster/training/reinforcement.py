"""Reinforcement learning from automated feedback: REFINE-AF's stage 2, by a named algorithm.

The policy writes several completions of each prompt, they are rewarded, and the rewards weigh the
gradient of their tokens, with a KL penalty for leaving the base policy. The paper used PPO and
publishes neither its coefficients nor its sizes (`docs/methods.md`): they are config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.models.device import Device, opened_device
from refine_dagster.models.language_model import ModelRef, as_model, check_text_alone
from refine_dagster.prompts.example import STOP
from refine_dagster.refine_af.feedback import Reward
from refine_dagster.refine_af.reward import RewardFunction
from refine_dagster.registry import ALGORITHMS
from refine_dagster.training.colocated_engine import engine_for
from refine_dagster.training.policy_steps import (
    PolicyPrompt,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
    RolloutReward,
)
from refine_dagster.training.trainer_session import TrainingError

__all__ = ["PolicyPrompt", "PolicyStep", "PolicyTraining", "train_policy"]


def train_policy(
    base: ModelRef | Path | str,
    prompts: Sequence[PolicyPrompt | str | Mapping[str, Any]],
    reward: RolloutReward | RewardFunction,
    config: ReinforcementConfig | Mapping[str, Any] | None,
    out: Path | str,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = STOP,
    device: Device | None = None,
    run_seed: str = "refine",
    resume: Path | None = None,
) -> PolicyTraining:
    """Train a policy on the rewards of what it writes, and save it in `out`.

    Args:
        base: the policy to begin with, also the reference of the KL penalty: a model on disk, its
            folder, or a Hugging Face id.
        prompts: in any order; of prompts with equal text one is trained on. A mapping has a
            `prompt`, and other columns that the reward function is given with its completions.
        reward: a function `reward(prompts, completions, **columns) -> list[float]`, a `Reward` of
            several, or the judge's `Feedback`.
        config: the section `reinforcement` of a profile, or some of its fields; None takes the
            defaults.
        out: folder of the adapter, or of the whole model where `config.weights` is `full`.
        max_new_tokens: longest completion, in tokens.
        stop: strings that end a completion.
        device: where to train; None opens a session with the default config.
        run_seed: names all noise: equal arguments give equal files on one machine.
        resume: folder for the state, saved every `config.save_every` steps; it belongs to one set
            of arguments. A training that finds the state of a killed one there goes on from it and
            ends with the same files and steps. The caller removes it. None saves none.

    Raises:
        RegistryError: no package provides the algorithm, or it is broken.
        RewardPartError: a reward function does not give one finite number a completion.
        TrainingError: there are no prompts, all weights of a quantized model are to be trained, an
            engine is asked for that cannot be had, or the loss is no longer a number.
        MemoryFullError: the model does not fit on the card, or not with a single rollout.
    """
    if not isinstance(config, ReinforcementConfig):
        config = ReinforcementConfig().changed("reinforcement", config or {}, "train_policy")
    rows, columns = _prompts(prompts)
    if not rows:
        raise TrainingError(
            "there are no prompts to train the policy on",
            fix="raise self_instruct.target, or give more seeds",
        )
    if callable(reward):
        reward = reward if isinstance(reward, Reward) else Reward(reward)
        reward = reward.with_columns(columns)
    with opened_device(device) as device:
        if config.weights == "full" and device.quantization != "none":
            raise TrainingError(
                "weights of four bits cannot be trained",
                where="config fields reinforcement.weights and device.quantization",
                fix="set reinforcement.weights to `lora`, or device.quantization to `none`",
            )
        ref, engine = as_model(base), engine_for(config, device)
        if engine == "vllm":
            check_text_alone(ref)
        task = PolicyTask(
            ref,
            rows,
            reward,
            config,
            max_new_tokens,
            Path(out),
            device,
            run_seed,
            resume,
            engine,
            tuple(stop),
        )
        trained: PolicyTraining = ALGORITHMS.get(config.algorithm)(task)
    return trained


def _prompts(
    prompts: Sequence[PolicyPrompt | str | Mapping[str, Any]],
) -> tuple[list[PolicyPrompt], dict[str, dict[str, Any]]]:
    """Different prompts in order of their ids, and the columns of those that have any."""
    columns: dict[str, dict[str, Any]] = {}
    rows: list[PolicyPrompt] = []
    for given in prompts:
        if isinstance(given, PolicyPrompt):
            rows.append(given)
            continue
        text = given if isinstance(given, str) else given["prompt"]
        rows.append(PolicyPrompt.of(text, text))
        if not isinstance(given, str):
            columns[text] = {name: value for name, value in given.items() if name != "prompt"}
    rows.sort(key=lambda row: row.instruction_id)
    # Of prompts with equal text the one with the first id.
    chosen = {row.prompt: row for row in reversed(rows)}
    return sorted(chosen.values(), key=lambda row: row.instruction_id), columns
