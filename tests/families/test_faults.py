"""What is wrong with some published folders: made good where the model is loaded, or refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.generation.model_text import ModelText, model_text
from refine_dagster.judge.network import Network, new_heads, read_network, write_network
from refine_dagster.models.architecture import UNSTATED_CONTEXT, context_length
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import (
    ModelRef,
    check_text_alone,
    load_config,
    load_tokenizer,
    loaded_model,
    resolve_model,
    with_adapter,
)
from refine_dagster.models.special_tokens import start_tokens
from refine_dagster.prompts.example import Example
from refine_dagster.training.policy_steps import save_policy
from refine_dagster.training.reinforcement import train_policy
from tests.builders.random_adapter import random_adapter
from tests.families.families import FAMILIES, Family
from tests.families.tokenizers import appending_end, byte_fallback, byte_level

FAMILY = {family.name: family for family in FAMILIES}
LLAMA = FAMILY["llama"]


def _edited(folder: Path, name: str, **fields: Any) -> ModelRef:
    """The model in `folder` after a change of one of its JSON files; None removes a field."""
    file = folder / name
    values = {**json.loads(file.read_text("utf-8")), **fields}
    kept = {field: value for field, value in values.items() if value is not None}
    file.write_text(json.dumps(kept), encoding="utf-8")
    return resolve_model(str(folder))


def _written(family: Family, folder: Path) -> ModelRef:
    return resolve_model(str(family.write(folder)))


def test_contradictory_sampling_fields_are_left_out_of_what_is_saved(
    device: Device, tmp_path: Path
) -> None:
    LLAMA.write(tmp_path / "base")
    ref = _edited(
        tmp_path / "base",
        "generation_config.json",
        do_sample=False,
        temperature=0.6,
        top_p=0.9,
        eos_token_id=[0, 7],
    )
    with loaded_model(ref, device) as loaded:
        assert ModelText.of(loaded.model, loaded.tokenizer).eos == {0, 7}
        save_policy(loaded.model, loaded.tokenizer, tmp_path / "policy")
        network = Network(loaded.model, new_heads(loaded.model), loaded.tokenizer, device)
        write_network(network, tmp_path / "judge", {})
    assert model_text(ref, None).eos == {0, 7}
    for folder in ("policy", "judge/backbone"):
        saved = json.loads((tmp_path / folder / "generation_config.json").read_text("utf-8"))
        assert saved["eos_token_id"] == [0, 7]
        assert not {"do_sample", "temperature", "top_p"} & set(saved)


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (lambda: byte_fallback(end="</s>", start="<s>"), ["<s>"]),
        (lambda: byte_fallback(end="</s>"), []),
        (lambda: byte_level(end="</s>", start="</s>"), ["</s>"]),
    ],
)
def test_no_end_token_is_put_behind_a_prompt(make: Any, start: list[str], tmp_path: Path) -> None:
    family = replace(LLAMA, tokenizer=lambda: appending_end(make()))
    tokenizer = load_tokenizer(_written(family, tmp_path / "base"))
    ids = tokenizer("the cat")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids[: len(start)]) == start
    assert ids[len(start) :] == tokenizer("the cat", add_special_tokens=False)["input_ids"]
    assert len(start_tokens(tokenizer)) == len(start)
    tokenizer.save_pretrained(tmp_path / "base")
    again = load_tokenizer(resolve_model(str(tmp_path / "base")))
    assert again("the cat")["input_ids"] == ids


def test_a_tokenizer_that_appends_by_its_config_is_kept_from_it(tmp_path: Path) -> None:
    LLAMA.write(tmp_path)
    ref = _edited(tmp_path, "tokenizer_config.json", add_eos_token=True, add_bos_token=True)
    tokenizer = load_tokenizer(ref)
    assert tokenizer("the cat")["input_ids"][-1] != tokenizer.eos_token_id
    assert start_tokens(tokenizer) == [tokenizer.bos_token_id]


def test_without_any_end_token_a_model_is_refused_in_one_line(tmp_path: Path) -> None:
    family = replace(LLAMA, tokenizer=byte_level)
    ref = _written(family, tmp_path)
    with pytest.raises(ModelError, match="it has no end-of-sequence token"):
        load_tokenizer(ref)


def test_an_end_token_that_only_the_config_names_is_taken(tmp_path: Path) -> None:
    replace(LLAMA, tokenizer=byte_level).write(tmp_path)
    tokenizer = load_tokenizer(_edited(tmp_path, "config.json", eos_token_id=[5, 6]))
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 5


def test_a_padding_token_outside_the_embedding_is_replaced(tmp_path: Path) -> None:
    ref = _written(LLAMA, tmp_path)
    tokenizer = load_tokenizer(ref)
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.add_tokens([f"<more{number}>" for number in range(20)])
    tokenizer.add_special_tokens({"pad_token": "[LAST]"})
    assert tokenizer.pad_token_id >= load_config(ref).vocab_size
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(resolve_model(str(tmp_path)))
    assert again.pad_token_id == again.eos_token_id


def test_an_end_token_outside_the_embedding_is_refused(tmp_path: Path) -> None:
    ref = _written(LLAMA, tmp_path)
    tokenizer = load_tokenizer(ref)
    tokenizer.add_tokens([f"<more{number}>" for number in range(20)])
    tokenizer.add_special_tokens({"eos_token": "<over>"})
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="'<over>' is number 399, and the model knows 387 tokens"):
        load_tokenizer(resolve_model(str(tmp_path)))


def test_missing_weights_are_refused_and_not_drawn(device: Device, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    LLAMA.write(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with (
        pytest.raises(ModelError, match=r"1 weights are missing, model\.layers\.1\.mlp\.up_proj"),
        loaded_model(resolve_model(str(tmp_path)), device),
    ):
        pass


def test_a_context_that_no_config_states_has_a_bound(tmp_path: Path) -> None:
    assert (
        context_length(load_config(_written(FAMILY["mamba"], tmp_path / "a"))) == UNSTATED_CONTEXT
    )
    FAMILY["bloom"].write(tmp_path / "b")
    ref = _edited(tmp_path / "b", "config.json", seq_length=640)
    assert context_length(load_config(ref)) == 640


def test_a_multimodal_model_is_read_by_transformers_only(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"multimodal model \(gemma3\)"):
        check_text_alone(_written(FAMILY["gemma3_multimodal"], tmp_path / "a"))
    check_text_alone(_written(FAMILY["gemma3"], tmp_path / "b"))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_training_mode_changes_no_reading(family: Family, device: Device, tmp_path: Path) -> None:
    import torch

    ids = torch.arange(3, 40)[None]
    with loaded_model(_written(family, tmp_path), device) as loaded, torch.no_grad():
        still = loaded.model(input_ids=ids, use_cache=False).logits
        loaded.model.train()
        assert torch.equal(loaded.model(input_ids=ids, use_cache=False).logits, still)


def test_a_judge_reads_the_start_token(device: Device, tmp_path: Path) -> None:
    with loaded_model(_written(FAMILY["gemma3"], tmp_path / "base"), device) as loaded:
        network = Network(loaded.model, new_heads(loaded.model), loaded.tokenizer, device)
        write_network(network, tmp_path / "judge", {})
    network = read_network(tmp_path / "judge", device)
    encoded = network.encode(Example("Name it.", "the cat", "the dog"))
    decode = network.tokenizer.decode
    assert decode(encoded.ids).startswith("<bos>Instruction: Name it.\nInput: the cat\nOutput:")
    assert decode(encoded.ids[encoded.given : encoded.response]) == " the cat\nOutput:"
    assert decode(encoded.ids[encoded.response :]) == " the dog<eos>"


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_all_weights_of_an_adapted_base_begin_there(
    device: Device, tmp_path: Path, algorithm: str
) -> None:
    base = _written(LLAMA, tmp_path / "base")
    adapted = with_adapter(base, random_adapter(base, tmp_path / "adapter", 1, 2))
    config = ReinforcementConfig(
        algorithm=algorithm, weights="full", steps=2, prompts_per_step=2, group_size=2
    )

    def length(prompts: Sequence[str], completions: Sequence[str], **_: object) -> list[float]:
        return [float(len(completion)) for completion in completions]

    out = tmp_path / "out"
    training = train_policy(adapted, ["the cat", "the dog"], length, config, out, device=device)
    assert training.steps[0].kl == pytest.approx(0.0, abs=1e-6)
    with loaded_model(adapted, device) as loaded:
        before = loaded.model.state_dict()
    with loaded_model(resolve_model(str(out)), device) as loaded:
        after = loaded.model.state_dict()
    assert all((after[name] != weights).any() for name, weights in before.items() if "proj" in name)
