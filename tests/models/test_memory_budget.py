"""Memory budgets: against numbers worked out by hand, and against what is really allocated."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from refine_dagster import progress
from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.batches import MemoryFullError, batch_ladder
from refine_dagster.models.device import Device, device_session, free_memory
from refine_dagster.models.language_model import resolve_model
from refine_dagster.models.memory import (
    GIB,
    NF4_BYTES,
    WIDTHS,
    BudgetLine,
    MemoryBudget,
    TrainingPlan,
    announce,
    config_size,
    generation_budget,
    model_size,
    request_bytes,
    requests_that_fit,
    training_budget,
)
from refine_dagster.training.trainer_session import lora

WHOLE = Device("cpu", "float32", 1, deterministic=True)
HALF = replace(WHOLE, dtype="bfloat16")
CARD = Device("cuda", "bfloat16", 1, deterministic=False, quantization="nf4")
DOCUMENT = Path(__file__).parents[2] / "docs" / "gpu.md"
PLAN = TrainingPlan("fine-tuning", batch=8, length=100, answer=50, lora_rank=4)


class Notes:
    """Keeps the notes."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start(self, description: str, total: int | None) -> int:
        return 0

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None: ...

    def finish(self, handle: int) -> None: ...

    def note(self, message: str) -> None:
        self.told.append(message)


def _config(layers: int = 2) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=100,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=False,
    )


def _lines(budget: MemoryBudget) -> dict[str, int]:
    return {line.what: line.bytes for line in budget.lines}


def test_a_small_llama_by_hand() -> None:
    size = config_size(_config())
    # A layer: q and o 64 x 64, k and v 64 x 32, three matrices of 64 x 128.
    assert size.linear == 2 * (2 * 4096 + 2 * 2048 + 3 * 8192) == 73_728
    # Embedding, head, two norms a layer and a last one.
    assert size.parameters == 73_728 + 2 * 6_400 + 5 * 64 == 86_848
    assert size.linear_inputs == 2 * (6 * 64 + 128)
    assert size.lora_width == 2 * (2 * 128 + 2 * 96 + 3 * 192) == 2_048
    assert (size.query, size.key_value, size.feed_forward) == (64, 32, 128)
    assert size.cache_bytes(2) == 2 * 2 * 32 * 2
    # 64 (4 x 2 + 8) + 2 x 64 x 2 + 2 x 32 x 2 + 4 x 128 x 2
    assert size.layer_activations(2) == 1024 + 256 + 128 + 1024 == 2_432

    budget = _lines(training_budget(size, PLAN, CARD))
    # Four bits, 1/8 bit for each block's scale, 32 bits for 64 x 256 weights: 4.127 bits a weight.
    assert pytest.approx(4.127, abs=5e-4) == NF4_BYTES * 8
    assert budget["weights"] == round(73_728 * NF4_BYTES) + 13_120 * 2
    assert budget["adapter"] == budget["gradients"] == 4 * 2_048 * 2
    assert budget["optimiser"] == 2 * 4 * 2_048 * 2
    assert budget["activations"] == 800 * (2 * 64 * 2 + 2_432 + 64 * 12)

    full = replace(PLAN, trained="full", trainer="own", reference=True, value_head=True, rollouts=8)
    whole = training_budget(size, full, HALF)
    lines = _lines(whole)
    assert lines["weights"] == lines["gradients"] == lines["reference policy"] == 86_848 * 2
    assert lines["optimiser"] == 2 * 86_848 * 2
    assert lines["value head"] == 65 * 16
    assert lines["logits"] == 400 * 100 * 18
    assert lines["rollouts' key-value cache"] == 8 * 100 * 256
    assert whole.total == whole.of("held") + max(whole.of("update"), whole.of("rollouts"))


@pytest.mark.slow
@pytest.mark.parametrize("trained", ["lora", "full"])
@pytest.mark.parametrize("device", [WHOLE, HALF])
def test_held_memory_is_what_is_allocated(trained: Any, device: Device) -> None:
    import torch
    from peft import get_peft_model
    from transformers import LlamaForCausalLM

    size = config_size(_config())
    model = LlamaForCausalLM(_config()).to(device.torch_dtype)
    weights = sum(weight.nbytes for weight in model.parameters())
    if trained == "lora":
        model = get_peft_model(model, lora(model, 4, 8))
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(learnt)
    model(input_ids=torch.arange(20)[None], labels=torch.arange(20)[None]).loss.backward()
    optimiser.step()
    states = [state for one in optimiser.state.values() for state in one.values()]
    budget = _lines(training_budget(size, replace(PLAN, trained=trained), device))
    assert budget["weights"] == weights
    assert budget.get("adapter", weights) == sum(weight.nbytes for weight in learnt)
    assert budget["gradients"] == sum(weight.grad.nbytes for weight in learnt)
    # Beside its two moments AdamW keeps a number of steps for each tensor.
    assert budget["optimiser"] == sum(state.nbytes for state in states if state.ndim)


def test_the_cache_is_what_is_allocated() -> None:
    import torch
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_config()).eval()
    with torch.inference_mode():
        cache = model(input_ids=torch.ones(3, 7, dtype=torch.int64)).past_key_values
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    budget = generation_budget(config_size(_config()), WHOLE, 3, 5, 2, "generation")
    assert _lines(budget)["key-value cache"] == held


@pytest.mark.parametrize(
    ("dtype", "trained", "autocast", "copied"),
    [
        ("float32", "full", False, 0),
        ("bfloat16", "full", True, 0),
        ("float32", "lora", False, 0),
        # PEFT's adapter is float32: alone it keeps its inputs so, under autocast in bfloat16.
        ("bfloat16", "lora", False, 4),
        ("bfloat16", "lora", True, 2),
    ],
)
def test_activations_are_near_what_autograd_keeps(
    dtype: str, trained: str, autocast: bool, copied: int
) -> None:
    """A further layer adds what the formula says, with LoRA up to a third less."""
    device = replace(WHOLE, dtype=dtype)
    more = _kept(3, device, trained, autocast) - _kept(2, device, trained, autocast)
    expected = config_size(_config()).layer_activations(WIDTHS[dtype], copied)
    least = 0.99 if trained == "full" else 0.66
    assert least < more / expected < 1.05


def _kept(layers: int, device: Device, trained: str, autocast: bool) -> float:
    """Bytes a token that autograd keeps beside the weights."""
    import torch
    from peft import get_peft_model
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(_config(layers)).to(device.torch_dtype)
    if trained == "lora":
        model = get_peft_model(model, lora(model, 4, 8)).base_model
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept: dict[int, Any] = {}

    def keep(tensor: Any) -> Any:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    ids = torch.ones(2, 32, dtype=torch.int64)
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        output = model(input_ids=ids, use_cache=False)
    assert output.logits.requires_grad
    return sum(storage.nbytes() for storage in kept.values()) / ids.numel()


def test_a_model_s_size_is_its_files(tiny_model_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    ref = resolve_model(str(tiny_model_folder))
    model = AutoModelForCausalLM.from_pretrained(tiny_model_folder)
    assert model_size(ref).parameters == model.num_parameters()


def test_an_announced_budget_is_shown_and_compared() -> None:
    budget = training_budget(config_size(_config()), PLAN, CARD)
    device, notes = replace(CARD), Notes()
    with progress.reporting(notes):
        announce(budget, device, "lower it", free=GIB)
    assert len(notes.told) == 1
    assert all(line.what in notes.told[0] for line in budget.lines)
    assert device.use.budgets["fine-tuning"].count("\n") == len(budget.lines) + 2
    with progress.reporting(notes):
        announce(budget, device, "lower it", free=int(budget.total * 1.05))
    assert "memory is tight" in notes.told[-1]
    assert "lower it" in notes.told[-1]
    with pytest.raises(MemoryFullError, match=r"fine-tuning: it needs[\s\S]*lower it"):
        announce(budget, device, "lower it", free=budget.of("held") - 1)
    with progress.reporting(notes):
        announce(budget, replace(CARD, name="cpu"), "lower it")
    assert notes.told[-1].startswith("memory budget of fine-tuning")
    assert "\n" not in notes.told[-1]


def test_a_line_of_a_budget_has_a_figure_that_says_something() -> None:
    budget = MemoryBudget("x", (BudgetLine("a", 3 * GIB // 2, "h"), BudgetLine("b", 2**20, "h")))
    assert budget.line() == "memory budget of x: 1.50 GiB (a 1.50, b 0.00098)"


def test_requests_found_from_memory_fit_into_it() -> None:
    size = replace(config_size(_config()), layers=4000, key_value=4096)
    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        room = free_memory(device)
        found = requests_that_fit(size, device, 1000, 24)
        each = request_bytes(size, device, 1000, 24)
        assert each > 1024 * 2 * 4000 * 4096 * 4
        # Other processes take and give memory meanwhile.
        assert found == 1 or 0.4 * room < found * each < 0.95 * room
        assert requests_that_fit(config_size(_config()), device, 10, 10) == 512


def test_a_ladder_parts_a_batch_evenly() -> None:
    for batch in range(1, 130):
        ladder = batch_ladder(batch)
        assert ladder[0] == batch
        assert ladder[-1] == 1
        assert all(batch % size == 0 for size in ladder)
        assert all(below <= size // 2 for size, below in pairwise(ladder))


def test_the_worked_example_of_the_docs_is_computed() -> None:
    from transformers import MistralConfig

    config = MistralConfig(
        vocab_size=32_000,
        hidden_size=4096,
        intermediate_size=14_336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
    )
    size = config_size(config)
    written = [
        line
        for line in DOCUMENT.read_text(encoding="utf-8").splitlines()
        if line.startswith(("| nf4 |", "| bf16 |"))
    ]
    assert len(written) == 7
    for line in written:
        weights, work, *figures = (cell.strip() for cell in line.strip("|").split("|"))
        passes = re.search(r"passes of (\d+) x (\d+)", work)
        assert passes is not None
        at_once = re.search(r"(\d+) rollouts", work)
        engine = re.search(r"vLLM with ([\d.]+)", work)
        plan = TrainingPlan(
            work,
            batch=int(passes[1]),
            length=int(passes[2]),
            answer=512 if "GRPO" in work else int(passes[2]),
            rollouts=int(at_once[1]) if at_once else 0,
            engine=round(float(engine[1]) * GIB) if engine else 0,
        )
        device = CARD if weights == "nf4" else replace(CARD, quantization="none")
        budget = training_budget(size, plan, device)
        parts = [budget.of("held"), budget.of("update"), budget.of("rollouts")]
        assert figures == [f"{part / GIB:.2f}" for part in (*parts, budget.total)], line
