"""What TRL's trainers need around them: a session that leaves nothing behind.

TRL's trainers write folders, print logs, seed global generators and report their use to the Hub.
Inside a session they write to a temporary folder, print nothing, send nothing, and the generators'
states are restored at the end, so that a training is a function of its arguments alone.
"""

from __future__ import annotations

import math
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError
from refine_dagster.home import replacing
from refine_dagster.models.device import Device
from refine_dagster.seeding import request_seed, restored_generators

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, Trainer

MAX_GRADIENT_NORM = 1.0
# Layers whose weights a state space hands to a kernel: an adapter around them would do nothing.
STATE_SPACES = ("falcon_mamba", "mamba", "mamba2")
UNCALLED = ("conv1d", "dt_proj", "out_proj", "x_proj")


class TrainingError(RefineError):
    """A training cannot begin with its arguments, or its loss is no longer a number."""


@dataclass(frozen=True)
class TrainerSession:
    """A temporary folder for the trainer's own files and the seed of its generators (31 bits)."""

    folder: str
    seed: int
    device: Device

    def arguments(self, steps: int, learning_rate: float) -> dict[str, Any]:
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
            # A card lacks memory, a CPU time.
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
    """Open a session whose seed is drawn from `name`; undo at the end what trainers change."""
    from huggingface_hub import constants
    from torch.utils import deterministic

    telemetry_off = constants.HF_HUB_DISABLE_TELEMETRY
    filling = deterministic.fill_uninitialized_memory
    constants.HF_HUB_DISABLE_TELEMETRY = True
    # Deterministic mode would fill every new tensor. TRL's fused head makes large ones and writes
    # them whole, and filling takes a third of the training's time on a CPU.
    deterministic.fill_uninitialized_memory = False
    try:
        with (
            tempfile.TemporaryDirectory(prefix="refine_trainer_") as folder,
            restored_generators(),
            warnings.catch_warnings(),
        ):
            warnings.filterwarnings("ignore", message=".*rollout_func.*", category=UserWarning)
            yield TrainerSession(folder, request_seed("trainer", *name) >> 32, device)
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry_off
        deterministic.fill_uninitialized_memory = filling


def lora(model: PreTrainedModel, rank: int, alpha: int) -> LoraConfig:
    """A LoRA config on every linear layer that the model calls, but the language model's head."""
    from peft import LoraConfig

    of_state_space = model.config.model_type in STATE_SPACES
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=0.0,
        target_modules="all-linear",
        exclude_modules=list(UNCALLED) if of_state_space else None,
        task_type="CAUSAL_LM",
    )


def replace_printing(trainer: Trainer, on_log: Callable[[int, Mapping[str, float]], None]) -> None:
    """Have `on_log(step, logs)` called at every optimiser step, from 1; print nothing.

    A loss that is not finite raises `TrainingError` out of `trainer.train()`.
    """
    from transformers import PrinterCallback, TrainerCallback

    class LogCallback(TrainerCallback):
        def on_log(
            self, args: Any, state: Any, control: Any, logs: dict[str, float], **rest: Any
        ) -> None:
            if "loss" in logs:
                check_loss(logs["loss"], state.global_step)
                on_log(state.global_step, logs)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(LogCallback())


def save_state(folder: Path | None, name: str, state: Mapping[str, Any]) -> None:
    """Write the state of an unfinished training to a file in its resume folder, if it has one."""
    import torch

    if folder is not None:
        with replacing(folder / name) as file, file.open("wb") as stream:
            torch.save(dict(state), stream)


def load_state(folder: Path | None, name: str, device: str = "cpu") -> dict[str, Any] | None:
    """The state that `save_state` wrote, its tensors on a device; None where there is none."""
    import torch

    if folder is None or not (folder / name).is_file():
        return None
    state: dict[str, Any] = torch.load(folder / name, map_location=device, weights_only=True)
    return state


def check_loss(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise TrainingError(f"the loss is {loss} at step {step}", fix="lower the learning rate")
