"""LoRA adapters with random weights: they change what a model says, and took no training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from refine_dagster.models.language_model import ModelRef, save_adapter


def random_adapter(
    base: ModelRef,
    folder: Path,
    seed: int,
    rank: int,
    modules: Sequence[str] = ("q_proj", "v_proj", "up_proj", "down_proj"),
) -> Path:
    """Write an adapter of a Llama to `folder`, the same for the same seed; return the folder."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
        adapted = get_peft_model(
            model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=list(modules))
        )
        for name, weights in adapted.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(weights, std=0.1)
    save_adapter(adapted, folder)
    return folder
