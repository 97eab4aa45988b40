"""Rollouts: where they end, whose noise they use, and that the cache changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.generation.decoding import Rollout, sample_rollouts
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.prompts.example import STOP
from tests.builders.writing_model import prompt_of

PROMPTS = [prompt_of(number)[1] for number in range(3)]
SEEDS = [[10 * number + rollout for rollout in range(6)] for number in range(3)]


@pytest.fixture(scope="module")
def writer(writing_model_folder: Path, device: Device) -> Iterator[LoadedModel]:
    with loaded_model(resolve_model(str(writing_model_folder)), device) as loaded:
        yield loaded


def _sample(
    writer: LoadedModel,
    prompts: list[str],
    seeds: list[list[int]],
    tokens: int = 24,
    temperature: float = 1.0,
) -> list[Rollout]:
    return sample_rollouts(
        writer.model,
        writer.tokenizer,
        prompts,
        seeds,
        max_new_tokens=tokens,
        temperature=temperature,
        stop=STOP,
    )


def test_nothing_follows_the_stop_string(writer: LoadedModel) -> None:
    rollouts = _sample(writer, PROMPTS, SEEDS)
    stopped = [rollout for rollout in rollouts if rollout.finished]
    assert len(stopped) >= 9
    for rollout in stopped:
        whole = writer.tokenizer.decode(rollout.completion_ids)
        if rollout.completion_ids[-1] == writer.tokenizer.eos_token_id:
            continue
        assert whole.endswith("\nInstruction:")
        assert not any(
            stop in writer.tokenizer.decode(rollout.completion_ids[:-1]) for stop in STOP
        )
        assert not any(stop in rollout.text for stop in STOP)
        assert whole.startswith(rollout.text)


def test_a_length_limit_leaves_a_rollout_unfinished(writer: LoadedModel) -> None:
    for rollout in _sample(writer, PROMPTS, SEEDS, tokens=3):
        assert len(rollout.completion_ids) == 3
        assert not rollout.finished
        assert rollout.text == writer.tokenizer.decode(rollout.completion_ids)


def test_noise_belongs_to_the_rollout(writer: LoadedModel) -> None:
    together = _sample(writer, PROMPTS, SEEDS)
    assert together == _sample(writer, PROMPTS, SEEDS)
    alone = [_sample(writer, [PROMPTS[1]], [[seed]])[0] for seed in SEEDS[1]]
    assert [rollout.text for rollout in alone] == [rollout.text for rollout in together[6:12]]
    assert len({rollout.text for rollout in together[6:12]}) > 1


def test_copied_and_thinned_caches_give_the_tokens_of_a_plain_forward(writer: LoadedModel) -> None:
    import torch

    # At a temperature near zero the likeliest token is drawn whatever the noise.
    for rollout in _sample(writer, PROMPTS, SEEDS, temperature=1e-4):
        ids = rollout.prompt_ids + rollout.completion_ids
        logits = writer.model(torch.tensor([ids[:-1]])).logits[0]
        expected = logits[len(rollout.prompt_ids) - 1 :].argmax(dim=-1).tolist()
        assert rollout.completion_ids == expected


def test_tokens_follow_the_models_distribution(writer: LoadedModel) -> None:
    import torch

    count = 2000
    rollouts = _sample(writer, PROMPTS[:1], [list(range(count))], tokens=3)
    third = [rollout.completion_ids[2] for rollout in rollouts]
    prefix = rollouts[0].completion_ids[:2]
    same = [
        token
        for token, rollout in zip(third, rollouts, strict=True)
        if rollout.completion_ids[:2] == prefix
    ]
    assert len(same) > 500
    logits = writer.model(torch.tensor([rollouts[0].prompt_ids + prefix])).logits[0, -1].detach()
    probabilities = torch.softmax(logits, dim=-1)
    for token in probabilities.topk(3).indices.tolist():
        expected = float(probabilities[token])
        error = 4 * (expected * (1 - expected) / len(same)) ** 0.5 + 1e-3
        assert same.count(token) / len(same) == pytest.approx(expected, abs=error)


def test_the_models_mode_is_put_back(writer: LoadedModel) -> None:
    writer.model.train()
    try:
        _sample(writer, PROMPTS[:1], [[1]])
        assert writer.model.training
    finally:
        writer.model.eval()
