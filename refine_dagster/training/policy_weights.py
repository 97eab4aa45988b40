"""What a policy's training changes of a model, and how the result is written.

Either a LoRA adapter, whose base is the reference policy once the adapter is switched off; or all
weights, and then the reference is a frozen copy of the model as it was.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refine_dagster.knobs import ReinforcementKnobs
from refine_dagster.language_model import save_adapter
from refine_dagster.training.trainer_session import lora


def trainable(model: Any, knobs: ReinforcementKnobs) -> tuple[Any, Any]:
    """The model to train, and the frozen copy of it; None where the adapter can be switched off."""
    if knobs.weights == "full":
        return model, copy.deepcopy(model).requires_grad_(False)
    from peft import get_peft_model, prepare_model_for_kbit_training

    if getattr(model, "is_loaded_in_4bit", False):
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return get_peft_model(model, lora(knobs.lora_rank, knobs.lora_alpha)), None


@contextmanager
def reference_policy(model: Any, frozen: Any) -> Iterator[Any]:
    """Lend the reference policy."""
    if frozen is not None:
        yield frozen
        return
    with model.disable_adapter():
        yield model


def save_policy(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write an adapter's weights and config; of a fully trained model the model and tokenizer."""
    if hasattr(model, "peft_config"):
        save_adapter(model, folder)
        return
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
