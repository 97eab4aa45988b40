"""Heads that look back do so whatever the tokens are, and the model stays an ordinary Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from refine_dagster.offline.base_model import previous_token_heads


def new_model() -> Any:
    torch.manual_seed(3)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=90,
            hidden_size=128,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            attention_bias=True,
            attn_implementation="eager",
        )
    ).eval()


def attention_at_distance(model: Any, head: int, distance: int) -> float:
    """Mean over random texts and places of the first layer's attention `distance` tokens back."""
    ids = torch.randint(0, 90, (4, 60), generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        attention = model(ids, output_attentions=True).attentions[0][:, head]
    mean = attention.diagonal(offset=-distance, dim1=1, dim2=2).mean()
    return float(mean.item())


@pytest.mark.parametrize("heads", [0, 1, 3])
def test_each_head_looks_back_by_its_own_distance(heads: int) -> None:
    model = new_model()
    plain = {name: weight.clone() for name, weight in model.state_dict().items()}
    previous_token_heads(model, heads)
    for head in range(4):
        at_own = attention_at_distance(model, head, head + 1)
        assert (at_own > 0.5) == (head < heads)
    changed = {
        name for name, weight in model.state_dict().items() if not torch.equal(weight, plain[name])
    }
    layer = "model.layers.0.self_attn"
    expected = {f"{layer}.q_proj.bias", f"{layer}.k_proj.bias"} if heads else set()
    assert changed == expected


def test_it_survives_saving_and_loading(tmp_path: Path) -> None:
    model = new_model()
    previous_token_heads(model, 2)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
    assert loaded.config.attention_bias is True
    for head in range(2):
        before = attention_at_distance(model, head, head + 1)
        assert attention_at_distance(loaded, head, head + 1) == before
