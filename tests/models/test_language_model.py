"""Finding, naming, loading and adapting a model folder, and what is said of a broken one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.models import known_models
from refine_dagster.models.conversion import Conversion
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import (
    ModelRef,
    loaded_model,
    resolve_model,
    save_adapter,
    with_adapter,
)


def _copy(folder: Path, to: Path) -> Path:
    shutil.copytree(folder, to)
    return to


def _adapted(folder: Path, seed: int) -> Any:
    """The folder's model with a LoRA adapter of random, nonzero weights."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"])
        adapted = get_peft_model(model, config)
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.5)
    return adapted


def _logits(ref: ModelRef, device: Device) -> Any:
    import torch

    with loaded_model(ref, device) as loaded, torch.inference_mode():
        assert not loaded.model.training
        return loaded.model(**loaded.tokenizer("Count the words.", return_tensors="pt")).logits


def test_fingerprint_names_content_not_place(tiny_model_folder: Path, tmp_path: Path) -> None:
    here = resolve_model(str(tiny_model_folder))
    there = resolve_model(str(_copy(tiny_model_folder, tmp_path / "other")))
    assert len(here.fingerprint) == 64
    assert here.path != there.path
    assert here.fingerprint == there.fingerprint
    (tmp_path / "other" / "notes.md").write_text("Not part of the model.")
    assert resolve_model(there.path).fingerprint == here.fingerprint


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_fingerprint_sees_every_part(tiny_model_folder: Path, tmp_path: Path, name: str) -> None:
    folder = _copy(tiny_model_folder, tmp_path / "changed")
    with (folder / name).open("ab") as stream:
        stream.write(b"\n")
    changed = resolve_model(str(folder)).fingerprint
    assert changed != resolve_model(str(tiny_model_folder)).fingerprint


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("config.json", "config.json"),
        ("model.safetensors", "weights"),
        ("tokenizer.json", "tokenizer"),
    ],
)
def test_a_missing_part_is_named(
    tiny_model_folder: Path, tmp_path: Path, name: str, said: str
) -> None:
    folder = _copy(tiny_model_folder, tmp_path / "broken")
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"missing: .*{said}") as caught:
        resolve_model(str(folder))
    assert caught.value.where == str(folder)


def test_an_empty_folder_lacks_all_three(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"config\.json, weights .*, a tokenizer"):
        resolve_model(str(tmp_path))


def test_an_index_must_have_its_shards(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = _copy(tiny_model_folder, tmp_path / "sharded")
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"weight file model-2\.safetensors"):
        resolve_model(str(folder))
    (folder / "model.safetensors.index.json").write_text("{")
    with pytest.raises(ModelError, match="index is not readable"):
        resolve_model(str(folder))


@pytest.mark.parametrize("path", ["/nowhere/model", "./nowhere", "nowhere", "a/b/c"])
def test_no_such_folder(path: str) -> None:
    with pytest.raises(ModelError, match="no such folder"):
        resolve_model(path)


def test_an_id_out_of_reach_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        resolve_model("somebody/some-model")
    assert caught.value.where == "somebody/some-model"
    assert "offline" in str(caught.value.fix)


def test_a_refused_connection_says_so(tmp_path: Path) -> None:
    # The client reads its settings on import, so they are given to another process.
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HOME": str(tmp_path),
    }
    script = (
        "from refine_dagster.models.files import ModelError\n"
        "from refine_dagster.models.language_model import resolve_model\n"
        "try:\n    resolve_model('somebody/some-model')\n"
        "except ModelError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "somebody/some-model: " in done.stdout
    assert "cannot be reached" in done.stdout


def test_an_id_that_is_none_says_so() -> None:
    with pytest.raises(ModelError, match="neither a folder nor"):
        resolve_model("somebody/--bad..name--")


def test_a_folder_has_no_revision(tiny_model_folder: Path) -> None:
    with pytest.raises(ModelError, match="no revisions"):
        resolve_model(str(tiny_model_folder), revision="main")


def test_unreadable_weights(tiny_model_folder: Path, tmp_path: Path, device: Device) -> None:
    folder = _copy(tiny_model_folder, tmp_path / "truncated")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[: len(content) // 2])
    ref = resolve_model(str(folder))
    with pytest.raises(ModelError, match="cannot be loaded"), loaded_model(ref, device):
        pass


def test_adapter_is_merged_and_named(
    tiny_model_folder: Path, tmp_path: Path, device: Device
) -> None:
    import torch

    base = resolve_model(str(tiny_model_folder))
    save_adapter(_adapted(tiny_model_folder, seed=1), tmp_path / "one")
    save_adapter(_adapted(tiny_model_folder, seed=2), tmp_path / "two")
    one, two = with_adapter(base, tmp_path / "one"), with_adapter(base, tmp_path / "two")
    assert len({base.fingerprint, one.fingerprint, two.fingerprint}) == 3
    plain, merged = _logits(base, device), _logits(one, device)
    with torch.inference_mode(), loaded_model(base, device) as loaded:
        wanted = _adapted(tiny_model_folder, seed=1).eval()(
            **loaded.tokenizer("Count the words.", return_tensors="pt")
        )
    assert torch.allclose(merged, wanted.logits, atol=1e-4)
    assert not torch.allclose(plain, merged, atol=1e-2)


def test_adapter_files_are_equal_for_equal_adapters(
    tiny_model_folder: Path, tmp_path: Path
) -> None:
    for name in ("one", "again"):
        save_adapter(_adapted(tiny_model_folder, seed=1), tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == ["adapter_config.json", "adapter_model.safetensors"]
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    config = json.loads((tmp_path / "one" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["o_proj", "q_proj", "v_proj"]
    assert config["peft_type"] == "LORA"
    assert str(tiny_model_folder) not in json.dumps(config)


def test_adapters_lie_on_top_of_each_other(
    tiny_model_folder: Path, tmp_path: Path, device: Device
) -> None:
    """Two merged updates are their sum; the name tells which came first."""
    import torch

    base = resolve_model(str(tiny_model_folder))
    for seed in (1, 2):
        save_adapter(_adapted(tiny_model_folder, seed=seed), tmp_path / str(seed))
    one = with_adapter(base, tmp_path / "1")
    both = with_adapter(one, tmp_path / "2")
    turned = with_adapter(with_adapter(base, tmp_path / "2"), tmp_path / "1")
    assert both.adapters == (str(tmp_path / "1"), str(tmp_path / "2"))
    assert len({ref.fingerprint for ref in (base, one, both, turned)}) == 4
    weights = {}
    for name, ref in (("base", base), ("one", one), ("both", both), ("turned", turned)):
        with loaded_model(ref, device) as loaded:
            assert not hasattr(loaded.model, "peft_config")
            weights[name] = loaded.model.model.layers[0].self_attn.q_proj.weight.detach().clone()
    two = with_adapter(base, tmp_path / "2")
    with loaded_model(two, device) as loaded:
        second = loaded.model.model.layers[0].self_attn.q_proj.weight.detach() - weights["base"]
    torch.testing.assert_close(weights["both"], weights["one"] + second)
    torch.testing.assert_close(weights["both"], weights["turned"])
    assert not torch.allclose(weights["both"], weights["one"])


def test_adapter_errors(tiny_model_folder: Path, tmp_path: Path) -> None:
    base = resolve_model(str(tiny_model_folder))
    with pytest.raises(ModelError, match=r"adapter_config\.json is missing"):
        with_adapter(base, tmp_path)
    save_adapter(_adapted(tiny_model_folder, seed=1), tmp_path)
    with pytest.raises(ModelError, match="adapter's folder cannot stand alone"):
        resolve_model(str(tmp_path))


def test_a_known_model_is_found_by_its_name_once_it_was_fetched(
    tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ModelError, match="model fetch gemma-3-270m"):
        resolve_model("gemma-3-270m")
    folder = known_models.fetched_folder("gemma-3-270m", "bfloat16")
    shutil.copytree(tiny_model_folder, folder)
    monkeypatch.setattr(Conversion, "of", lambda where: where == folder)
    assert resolve_model("gemma-3-270m") == resolve_model(str(folder))
