"""What both TRL trainers need around them: a quiet room that leaves nothing behind.

TRL's trainers write folders, print logs, seed global generators and report their use to the Hub.
Inside a session they write to a temporary folder, print nothing, send nothing, and the generators'
states are put back at the end, so that a training is a function of its arguments alone.
"""

from __future__ import annotations

import random
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.models.device import Device
from refine_dagster.seeding import request_seed

MAX_GRADIENT_NORM = 1.0


class TrainingError(RefineError):
    """A training cannot begin with what it was given, or its loss is no longer a number."""


@dataclass(frozen=True)
class TrainerSession:
    """A temporary folder for the trainer's own files and the seed of its generators (31 bits)."""

    folder: str
    seed: int
    device: Device

    def arguments(self, steps: int, learning_rate: float) -> dict[str, Any]:
        """The `TrainingArguments` that every training here shares."""
        on_cpu = self.device.name == "cpu"
        return {
            "output_dir": self.folder,
            "max_steps": steps,
            "learning_rate": learning_rate,
            "max_grad_norm": MAX_GRADIENT_NORM,
            "weight_decay": 0.0,
            "optim": "adamw_torch",
            "seed": self.seed,
            "data_seed": self.seed,
            "bf16": self.device.dtype == "bfloat16",
            "fp16": False,
            "use_cpu": on_cpu,
            # Activations are recomputed where memory is dear, kept where time is.
            "gradient_checkpointing": not on_cpu,
            "dataloader_pin_memory": not on_cpu,
            "logging_strategy": "steps",
            "logging_steps": 1,
            # The trainer would replace a loss that is no number by the last one that was.
            "logging_nan_inf_filter": False,
            "save_strategy": "no",
            "report_to": "none",
            "push_to_hub": False,
            "disable_tqdm": True,
        }


@contextmanager
def trainer_session(device: Device, *name: str) -> Iterator[TrainerSession]:
    """Lend a session whose seed is drawn from `name`; undo all that it touched at the end."""
    import numpy
    import torch
    from huggingface_hub import constants
    from torch.utils import deterministic

    states = random.getstate(), numpy.random.get_state()
    telemetry_off = constants.HF_HUB_DISABLE_TELEMETRY
    filling = deterministic.fill_uninitialized_memory
    constants.HF_HUB_DISABLE_TELEMETRY = True
    # Deterministic mode would fill every new tensor. TRL's fused head makes large ones and writes
    # them whole, and filling takes a third of the training's time on a CPU.
    deterministic.fill_uninitialized_memory = False
    try:
        with (
            tempfile.TemporaryDirectory(prefix="refine_trainer_") as folder,
            torch.random.fork_rng(),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*rollout_func.*", category=UserWarning)
            yield TrainerSession(folder, request_seed("trainer", *name) >> 32, device)
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry_off
        deterministic.fill_uninitialized_memory = filling
        random.setstate(states[0])
        numpy.random.set_state(states[1])


def lora(rank: int, alpha: int) -> Any:
    """A LoRA config on every linear layer but the language model's head."""
    from peft import LoraConfig

    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )


def listen(trainer: Any, heard: Callable[[int, Mapping[str, float]], None]) -> None:
    """Call `heard(step, logs)` for every optimiser step's log instead of printing it.

    Args:
        trainer: a Trainer that logs at every step.
        heard: takes the step, from 1, and what the trainer logged at it.

    The call raises `TrainingError` out of `trainer.train()` where the loss is not a finite number.
    """
    import math

    from transformers import PrinterCallback, TrainerCallback

    class Listener(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **rest: Any
        ) -> None:
            if "loss" not in logs:
                return
            if not math.isfinite(logs["loss"]):
                raise TrainingError(
                    f"the loss is {logs['loss']} at step {state.global_step}",
                    fix="lower the learning rate",
                )
            heard(state.global_step, logs)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Listener())
