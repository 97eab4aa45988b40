"""A program that trains on exported datasets with TRL, as their users do.

`python -m tests.publishing.training MODEL SCRATCH MESSAGES PROMPT_COMPLETION PREFERENCE`, folders;
prints JSON: the first loss of the SFT trainer on the first two, and of the DPO trainer on the last.
"""

from __future__ import annotations

import json
import sys
from typing import Any


def main(model: str, scratch: str, messages: str, completions: str, preferences: str) -> None:
    """Train one step on each."""
    losses = {
        "messages": _sft(model, scratch, messages),
        "prompt-completion": _sft(model, scratch, completions),
        "preference": _dpo(model, scratch, preferences),
    }
    print(json.dumps(losses), flush=True)


def _arguments(scratch: str) -> dict[str, Any]:
    return {
        "output_dir": scratch,
        "max_steps": 1,
        "per_device_train_batch_size": 1,
        "report_to": [],
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
    }


def _sft(model: str, scratch: str, folder: str) -> float:
    from datasets import load_dataset
    from trl import SFTConfig, SFTTrainer

    trainer = SFTTrainer(
        model=model,
        args=SFTConfig(**_arguments(scratch)),
        train_dataset=load_dataset(folder, split="train"),
    )
    return float(trainer.train().training_loss)


def _dpo(model: str, scratch: str, folder: str) -> float:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    trainer = DPOTrainer(
        model=model,
        args=DPOConfig(**_arguments(scratch)),
        train_dataset=load_dataset(folder, split="train"),
    )
    return float(trainer.train().training_loss)


if __name__ == "__main__":
    main(*sys.argv[1:])
