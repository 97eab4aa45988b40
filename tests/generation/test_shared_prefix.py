"""The start that a batch's prompts share is read once, and completions are those read alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.decoding import SHORTEST, read_once, shared_start
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from tests.builders.word_requests import WORDS

START = "Come up with a task that is like these, and say it in one sentence.\n\nInstruction: "


@pytest.fixture(scope="module")
def free(tiny_model_folder: Path) -> Iterator[LoadedModel]:
    with (
        device_session(DeviceConfig(device="cpu", threads=1, deterministic=False)) as device,
        loaded_model(resolve_model(str(tiny_model_folder)), device) as model,
    ):
        yield model


def _requests(start: str) -> list[Request]:
    """Prompts of different lengths behind one start."""
    greedy = Sampling(max_new_tokens=12)
    return [
        Request("propose", f"{start}{' '.join(WORDS[: number + 1])}\nInput:", greedy, number)
        for number in range(len(WORDS))
    ]


def _read(free: LoadedModel, requests: list[Request]) -> tuple[list[Completion], int]:
    """Completions in order, and how many tokens the model was given for them."""
    read = 0

    def count(_module: object, _args: object, given: dict[str, torch.Tensor]) -> None:
        nonlocal read
        read += given["input_ids"].numel()

    hook = free.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        batches = list(TransformersBackend(free, 32).generate(requests))
    finally:
        hook.remove()
    answers = dict(one for batch in batches for one in batch)
    return [answers[place] for place in range(len(requests))], read


def test_a_shared_start_is_read_once_and_changes_nothing(free: LoadedModel) -> None:
    requests = _requests(START)
    together, read = _read(free, requests)
    alone = [_read(free, [request])[0][0] for request in requests]
    assert [one.text for one in together] == [one.text for one in alone]
    backend = TransformersBackend(free, 32)
    prompts = [backend.count_tokens(request.prompt) for request in requests]
    start = backend.count_tokens(START)
    assert start > 2 * SHORTEST
    steps = 12 * len(requests)
    # The start once, what follows padded to the longest, and a token a step.
    assert read <= start + (max(prompts) - start + 2) * len(prompts) + steps
    assert read < max(prompts) * len(prompts)


def test_logits_behind_a_shared_start_are_those_of_the_whole_prompt(free: LoadedModel) -> None:
    start = list(range(3, 3 + 2 * SHORTEST))
    rest = torch.tensor([[5, 6, 7], [8, 9, 10]])
    with torch.inference_mode():
        cache = read_once(free.model, start, 2)
        behind = free.model(input_ids=rest, past_key_values=cache).logits
        whole = free.model(input_ids=torch.cat([torch.tensor([start, start]), rest], 1)).logits
    torch.testing.assert_close(behind, whole[:, len(start) :], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prompts", "shared"),
    [
        ([[1] * 40], 0),
        ([[1] * 40, [1] * 40], 39),
        ([[1] * 40 + [2], [1] * 40 + [3]], 40),
        ([[1] * 8 + [2], [1] * 8 + [3]], 0),
        ([[1] * 40, [1] * 20], 19),
    ],
)
def test_shared_start(prompts: list[list[int]], shared: int) -> None:
    assert shared_start(prompts) == shared


def test_a_sliding_window_is_read_whole() -> None:
    from transformers import MistralConfig, MistralForCausalLM

    config = MistralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=8,
    )
    model = MistralForCausalLM(config).eval()
    assert read_once(model, [1] * 20, 2) is None
