"""Several LoRA adapters as one, for engines that take one adapter a request.

Each adapter was trained on the weights W + s1 B1 A1 + ... with all those before it, so their
updates add up. The sum is a LoRA update too: the A matrices one below the other, the B matrices
side by side, each B times its scale s = alpha / r (rsLoRA: alpha / sqrt(r)).
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from refine_dagster.language_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS


def as_one_adapter(adapters: Sequence[str], scratch: Path) -> tuple[str, int]:
    """One folder with the update of all adapters together.

    Args:
        adapters: folders of PEFT LoRA adapters, in the order of training; one at least.
        scratch: where a folder is written if there are several; a single one is taken as it is.

    Returns:
        The folder, and its rank: the sum of the adapters'.
    """
    configs = [_config(folder) for folder in adapters]
    rank = sum(int(config["r"]) for config in configs)
    if len(adapters) == 1:
        return adapters[0], rank
    import torch
    from safetensors.torch import load_file, save_file

    stacked: dict[str, Any] = {}
    start = 0
    for folder, config in zip(adapters, configs, strict=True):
        own = int(config["r"])
        scale = config["lora_alpha"] / (math.sqrt(own) if config.get("use_rslora") else own)
        for name, weights in load_file(Path(folder) / ADAPTER_WEIGHTS).items():
            is_a = ".lora_A." in name
            if name not in stacked:
                shape = (rank, weights.shape[1]) if is_a else (weights.shape[0], rank)
                # A module that an adapter leaves alone has zeros in its place.
                stacked[name] = torch.zeros(shape, dtype=weights.dtype)
            place = slice(start, start + own)
            if is_a:
                stacked[name][place] = weights
            else:
                stacked[name][:, place] = weights * scale
        start += own
    modules = sorted({module for config in configs for module in config["target_modules"]})
    one = configs[0] | {
        "r": rank,
        "lora_alpha": rank,
        "use_rslora": False,
        "target_modules": modules,
    }
    save_file(stacked, scratch / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    (scratch / ADAPTER_CONFIG).write_text(json.dumps(one, indent=2) + "\n", encoding="utf-8")
    return str(scratch), rank


def _config(folder: str) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((Path(folder) / ADAPTER_CONFIG).read_text("utf-8"))
    return config
