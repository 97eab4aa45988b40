"""Adapters trained one on top of the other are one adapter of the ranks together."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from refine_dagster.generation.vllm_backend import as_one_adapter
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import loaded_model, resolve_model, with_adapter
from tests.builders.random_adapter import random_adapter


def test_the_stack_says_what_the_merged_adapters_say(
    tiny_model_folder: Path, tmp_path: Path, device: Device
) -> None:
    base = resolve_model(str(tiny_model_folder))
    narrow = random_adapter(base, tmp_path / "a", seed=1, rank=4, modules=("q_proj", "down_proj"))
    wide = random_adapter(base, tmp_path / "b", seed=2, rank=8, modules=("q_proj", "v_proj"))
    scratch = tmp_path / "stack"
    scratch.mkdir()
    folder, rank = as_one_adapter((str(narrow), str(wide)), scratch)
    assert (folder, rank) == (str(scratch), 12)

    refs = {
        "base": base,
        "narrow": with_adapter(base, narrow),
        "both": with_adapter(with_adapter(base, narrow), wide),
        "stack": with_adapter(base, scratch),
    }
    logits = {}
    for name, ref in refs.items():
        with loaded_model(ref, device) as loaded, torch.inference_mode():
            ids = loaded.tokenizer("Count the words.", return_tensors="pt")["input_ids"]
            logits[name] = loaded.model(input_ids=ids).logits
    assert torch.allclose(logits["stack"], logits["both"], atol=1e-5)
    for other in ("base", "narrow"):
        assert (logits["stack"] - logits[other]).abs().max() > 0.1


def test_a_single_adapter_is_taken_as_it_is(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = resolve_model(str(tiny_model_folder))
    folder = random_adapter(base, tmp_path / "a", seed=1, rank=4)
    assert as_one_adapter((str(folder),), tmp_path) == (str(folder), 4)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_nothing_else_is_written(tiny_model_folder: Path, tmp_path: Path, name: str) -> None:
    base = resolve_model(str(tiny_model_folder))
    folders = [
        str(random_adapter(base, tmp_path / str(seed), seed=seed, rank=4)) for seed in (1, 2)
    ]
    before = [(Path(folder) / name).read_bytes() for folder in folders]
    scratch = tmp_path / "stack"
    scratch.mkdir()
    as_one_adapter(folders, scratch)
    assert [(Path(folder) / name).read_bytes() for folder in folders] == before
    assert sorted(entry.name for entry in scratch.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
