"""Kinds of models that cannot be used, seen from config.json alone and refused by name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_dagster.models.files import ModelError

_UNQUANTIZED = (
    "take the model's original weights; device.quantization `nf4` packs them in four bits"
)
CAUSAL = "take a model that writes text from left to right, such as a Llama, a Qwen or a Gemma"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a model, and what to do about it."""

    what: str
    fix: str


def raise_problems(problems: list[Problem], where: str) -> None:
    """Raise one error with all problems, if there are any."""
    if not problems:
        return
    if len(problems) == 1:
        raise ModelError(problems[0].what, where=where, fix=problems[0].fix)
    lines = "".join(f"\n  {one.what}: {one.fix}" for one in problems)
    raise ModelError(
        f"{len(problems)} problems make this model unusable{lines}",
        where=where,
        fix="solve each of them, or take another model",
    )


def refuse_by_config(folder: Path) -> None:
    """Refuse a model of a kind that cannot be used, by its config.json alone.

    Raises:
        ModelError: with every reason.
    """
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        config = None
    if not isinstance(config, dict):
        problems = [Problem("config.json is no JSON object", "download the model again")]
    else:
        problems = list(_config_problems(config))
    raise_problems(problems, str(folder))


def _config_problems(config: Mapping[str, Any]) -> Iterator[Problem]:
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    kind = config.get("model_type")
    text = config.get("text_config") or {}
    text = text if isinstance(text, dict) else {}
    kinds = {kind, text.get("model_type", kind)}
    if not isinstance(kind, str):
        yield Problem("config.json names no model_type", "download the model again")
    elif kind not in CONFIG_MAPPING_NAMES:
        if config.get("auto_map"):
            yield Problem(
                f"{kind!r} is made of code in its own folder (trust_remote_code), which is not run",
                "take a model of a kind that transformers itself has",
            )
        else:
            yield Problem(
                f"{kind!r} is no kind of model that this version of transformers has",
                "correct model_type in config.json, or install a version that has it",
            )
    elif config.get("is_encoder_decoder") or not kinds & MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys():
        yield Problem(f"{kind!r} is no causal language model", CAUSAL)
    elif kind in MODEL_FOR_MASKED_LM_MAPPING_NAMES and not (
        config.get("is_decoder") or config.get("causal")
    ):
        yield Problem(f"{kind!r} reads texts in both directions and writes none", CAUSAL)
    for part in (config, text):
        if quantized := part.get("quantization_config"):
            method = quantized.get("quant_method") if isinstance(quantized, dict) else None
            yield Problem(
                f"its weights are quantized already ({method or 'unknown method'})", _UNQUANTIZED
            )
        for name in sorted(_rope_types(part) - _known_rope_types()):
            yield Problem(
                f"its rotary embedding is of the type {name!r}, unknown to transformers",
                "correct rope_type in config.json, or install a version that has it",
            )


def _known_rope_types() -> set[str]:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    # Qwen-VL's for text alone is the usual one; Phi-3's first name for `longrope`.
    return {*ROPE_INIT_FUNCTIONS, "default", "mrope", "su"}


def _rope_types(config: Mapping[str, Any]) -> set[str]:
    """Types of rotary embedding that a config names, one for all layers or by kind of layer."""
    named: set[str] = set()
    for field in ("rope_scaling", "rope_parameters"):
        rope = config.get(field)
        if isinstance(rope, dict):
            inner = [rope, *(one for one in rope.values() if isinstance(one, dict))]
            named |= {str(one.get("rope_type") or one.get("type") or "default") for one in inner}
    return named
