"""`benchmarks/gpu.py`: what it counts, and what it does without a card."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.models.memory import config_size
from refine_dagster.training.trainer_session import lora

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.py"


@pytest.fixture(scope="module")
def script() -> Any:
    spec = importlib.util.spec_from_file_location("gpu_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=100,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )


def test_operations_are_what_torch_counts(script: Any) -> None:
    import torch
    from peft import get_peft_model
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import LlamaForCausalLM

    size = config_size(_config())
    ids = torch.ones(2, 48, dtype=torch.int64)
    for trained in ("full", "lora"):
        model = LlamaForCausalLM(_config())
        if trained == "lora":
            model = get_peft_model(model, lora(model, 1, 1))
            model.enable_input_require_grads()
        with FlopCounterMode(display=False) as forward:
            loss = model(input_ids=ids, labels=ids).loss
        with FlopCounterMode(display=False) as backward:
            loss.backward()
        read = forward.get_total_flops() / ids.numel()
        both = read + backward.get_total_flops() / ids.numel()
        # The adapter's own products, some per cent, are not counted.
        assert 0.93 < script.forward_operations(size, 48) / read <= 1.001
        assert 0.93 < script.training_operations(size, 48, trained) / both <= 1.001


def test_the_model_has_more_than_100_m_parameters(script: Any) -> None:
    from transformers import LlamaConfig

    scale = script.CARD
    size = config_size(
        LlamaConfig(
            # Far fewer entries than the tokenizer may get.
            vocab_size=1000,
            hidden_size=scale.hidden,
            intermediate_size=scale.feed_forward,
            num_hidden_layers=scale.layers,
            num_attention_heads=scale.heads,
        )
    )
    assert size.parameters > 100e6


def test_without_a_card_nothing_is_written(
    script: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a card")
    monkeypatch.setattr(script, "REPORT", tmp_path / "gpu.md")
    assert script.main([]) == 2
    assert "no CUDA device" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_the_page_has_shares_of_both_rates(script: Any) -> None:
    figure = script.Figure("fine-tuning", 1000.0, 2e9, 4096, 12.0)
    told = {"hardware": "NVIDIA H100 80GB HBM3", "driver": "1.2"}
    page = script.report([figure], told, 155_000_000, 500e12)
    assert "| fine-tuning | 1,000 | 4,096 | 0.4% | 0.2% | 12 |" in page
    assert script.sheet_rate("NVIDIA H100 PCIe") == 756e12
    assert script.sheet_rate("another") is None
