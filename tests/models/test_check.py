"""Models that a run cannot use are refused in one error, before anything is spent."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.models.check import check_model
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import resolve_model
from tests.families.families import FAMILIES, Family
from tests.families.tokenizers import byte_level

FAMILY = {family.name: family for family in FAMILIES}


def _refusal(folder: Path, device: Device) -> ModelError:
    with pytest.raises(ModelError) as caught:
        check_model(resolve_model(str(folder)), device)
    assert caught.value.fix
    assert caught.value.where == str(folder)
    assert len(str(caught.value)) < 600
    return caught.value


def _edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **fields}), "utf-8")


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_every_family_passes(family: Family, tmp_path: Path, device: Device) -> None:
    check_model(resolve_model(str(family.write(tmp_path))), device)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "'t5' is no causal language model"),
        ({"model_type": "vit"}, "'vit' is no causal language model"),
        ({"model_type": "bert"}, "'bert' reads texts in both directions"),
        ({"model_type": "llama9"}, "'llama9' is no kind of model that this version"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig"}},
            "'own' is made of code in its own folder (trust_remote_code)",
        ),
        ({"model_type": None}, "names no model_type"),
        *(
            ({"quantization_config": {"quant_method": method}}, f"quantized already ({method})")
            for method in ("gptq", "awq", "bitsandbytes", "fp8")
        ),
        ({"quantization_config": {"load_in_4bit": True}}, "quantized already (unknown method)"),
        ({"rope_scaling": {"type": "spiral", "factor": 2.0}}, "of the type 'spiral'"),
        ({"rope_parameters": {"full_attention": {"rope_type": "coil"}}}, "of the type 'coil'"),
        ({"hidden_size": "wide"}, "cannot be read: "),
        ({"num_attention_heads": 0}, "cannot be "),
        ({"num_attention_heads": 5}, "cannot be "),
        ({"pad_token_id": 4000}, "cannot be loaded"),
        ({"hidden_size": 48}, "cannot be loaded"),
        ({"vocab_size": 100}, "the model knows 100 tokens"),
    ],
)
def test_configs_that_are_refused(
    fields: dict[str, Any], said: str, tmp_path: Path, device: Device
) -> None:
    _edit(FAMILY["llama"].write(tmp_path) / "config.json", **fields)
    refused = _refusal(tmp_path, device)
    assert said in refused.what
    assert len(str(refused).splitlines()) == 2


def test_all_reasons_are_named_at_once(tmp_path: Path, device: Device) -> None:
    FAMILY["llama"].write(tmp_path)
    _edit(
        tmp_path / "config.json",
        model_type="bert",
        quantization_config={"quant_method": "gptq"},
        rope_scaling={"rope_type": "spiral"},
    )
    lines = str(_refusal(tmp_path, device)).splitlines()
    assert lines[0].endswith("3 problems make this model unusable")
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "'bert' reads texts in both directions and writes none",
        "its weights are quantized already (gptq)",
        "its rotary embedding is of the type 'spiral', unknown to transformers",
        "Fix",
    ]


def _without_places(folder: Path) -> None:
    file = folder / "tokenizer.json"
    state = json.loads(file.read_text("utf-8"))
    state["normalizer"] = {"type": "Replace", "pattern": {"String": "."}, "content": ""}
    file.write_text(json.dumps(state), "utf-8")


def _with_another_tokenizer(folder: Path) -> None:
    tokenizer = byte_level(end="</s>")
    tokenizer.add_tokens([f"word{number}" for number in range(200)])
    tokenizer.save_pretrained(folder)


def _with_numbers_that_are_none(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _with_a_broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text("{}", "utf-8")


def _with_a_pointer(name: str) -> Callable[[Path], None]:
    def break_it(folder: Path) -> None:
        pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 99\n"
        (folder / name).write_text(pointer, "utf-8")

    return break_it


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (_without_places, "wrong places of tokens"),
        (_with_another_tokenizer, "the model knows 387 tokens"),
        (_with_numbers_that_are_none, "its loss on a sentence is nan"),
        (_with_a_broken_tokenizer, "tokenizer cannot be read"),
        (_with_a_pointer("model.safetensors"), "only Git LFS pointers"),
        (_with_a_pointer("tokenizer.json"), "only Git LFS pointers"),
    ],
)
def test_folders_that_are_refused(
    break_it: Callable[[Path], None], said: str, tmp_path: Path, device: Device
) -> None:
    break_it(FAMILY["llama"].write(tmp_path))
    assert said in _refusal(tmp_path, device).what


def test_a_model_that_reads_in_both_directions_is_found_by_what_it_does(
    tmp_path: Path, device: Device
) -> None:
    _edit(FAMILY["gemma3"].write(tmp_path) / "config.json", use_bidirectional_attention=True)
    assert "it is not causal" in _refusal(tmp_path, device).what
