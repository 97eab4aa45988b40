"""Reinforcement learning from automated feedback: REFINE-AF's stage 2, by a named algorithm.

The policy writes several instances of each instruction, the judge rewards them, and the rewards
weigh the gradient of their tokens, with a KL penalty for leaving the base policy. The paper used
PPO and publishes neither its coefficients nor its sizes (`docs/methods.md`): they are config.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refine_dagster.config.dataset import InstanceConfig
from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.registry import ALGORITHMS
from refine_dagster.training.colocated_engine import engine_for
from refine_dagster.training.policy_steps import (
    PolicyPrompt,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
)
from refine_dagster.training.trainer_session import TrainingError

__all__ = ["PolicyPrompt", "PolicyStep", "PolicyTraining", "train_policy"]


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
        run_seed: names all noise: equal arguments give equal files on one machine.
        resume: folder for the state, saved every `config.save_every` steps. A training that finds
            the state of a killed one there goes on from it and ends with the same files and steps;
            so a folder belongs to one set of arguments. The caller removes it. None saves none.

    Raises:
        RegistryError: no package provides the algorithm, or it is broken.
        TrainingError: there are no prompts, all weights of a quantized model are to be trained, an
            engine is asked for that cannot be had, or the loss is no longer a number.
        MemoryFullError: the model does not fit on the card, or not with a single rollout.
    """
    if config.weights == "full" and device.quantization != "none":
        raise TrainingError(
            "weights of four bits cannot be trained",
            where="config fields reinforcement.weights and device.quantization",
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
        engine_for(config, device),
    )
    trained: PolicyTraining = ALGORITHMS.get(config.algorithm)(task)
    return trained
