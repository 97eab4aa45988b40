"""The start that a batch's prompts share is read once, and completions are those read alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel

from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.decoding import SHORTEST, Sequences, read_once, shared_start
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.models.padding import pad_left
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
        cache = read_once(free.model, start, 2, len(start) + 3)
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


def _sliding(window: int) -> PreTrainedModel:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(3)
    config = MistralConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        sliding_window=window,
    )
    return MistralForCausalLM(config).eval()


def test_a_prompt_longer_than_its_sliding_window_is_read_whole() -> None:
    assert read_once(_sliding(24), [1] * 20, 2, 25) is None


def test_a_start_inside_the_sliding_window_is_read_once() -> None:
    """Two prompts of different lengths, padded behind their start, up to the window's end."""
    model, start = _sliding(24), list(range(3, 23))
    prompts = [[*start, 30, 31, 32], [*start, 40]]
    cache = read_once(model, start, 2, 24)
    assert cache is not None
    step = np.array([[50], [51]])
    with torch.inference_mode():
        sequences = Sequences(model, pad_left(prompts, 0, shared=20), 1, cache, 20)
        before = sequences.logits
        sequences.read(step)
        for row, prompt in enumerate(prompts):
            whole = model(torch.tensor([[*prompt, int(step[row, 0])]])).logits[0, -2:].numpy()
            np.testing.assert_allclose(before[row], whole[0], rtol=1e-4, atol=1e-5)
            np.testing.assert_allclose(sequences.logits[row], whole[1], rtol=1e-4, atol=1e-5)
