"""Likelihoods are the model's own, and a model that has learnt texts by heart is told by them."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.privacy.attacks import (
    Likelihoods,
    TooLongError,
    attack_results,
    joined,
    read_likelihoods,
)

WORDS = ("cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp", "milk")
PROMPT = "Name some words.\n"


@pytest.fixture
def loaded(tiny_model_folder: Path, device: Device) -> Iterator[LoadedModel]:
    with loaded_model(resolve_model(str(tiny_model_folder)), device) as model:
        yield model


def texts(count: int) -> list[str]:
    """Lists of words drawn at random."""
    rng = random.Random(3)
    return [" ".join(rng.choices(WORDS, k=8)) for _ in range(count)]


def test_they_are_the_models_log_probabilities_with_mean_and_deviation(
    loaded: LoadedModel,
) -> None:
    import torch

    (found,) = read_likelihoods(loaded, [PROMPT], ["cat dog"])
    given = loaded.tokenizer(PROMPT)["input_ids"]
    asked = loaded.tokenizer("cat dog", add_special_tokens=False)["input_ids"]
    assert len(found.logs) == len(found.means) == len(found.deviations) == len(asked)
    with torch.inference_mode():
        logits = loaded.model(torch.tensor([[*given, *asked]])).logits[0].double()
    for place, token in enumerate(asked):
        logs = logits[len(given) - 1 + place].log_softmax(-1).tolist()
        mean = sum(math.exp(log) * log for log in logs)
        variance = sum(math.exp(log) * (log - mean) ** 2 for log in logs)
        assert found.logs[place] == pytest.approx(logs[token], abs=1e-4)
        assert found.means[place] == pytest.approx(mean, abs=1e-4)
        assert found.deviations[place] == pytest.approx(math.sqrt(variance), abs=1e-4)


def test_what_cannot_be_read_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        read_likelihoods(loaded, [PROMPT], [""])
    with pytest.raises(TooLongError, match="context of"):
        read_likelihoods(loaded, [PROMPT], ["cat " * 3000])


def test_the_two_controls(loaded: LoadedModel) -> None:
    """An over-fitted model gives its members away; the model before cannot know them."""
    import torch

    everything = texts(60)
    members, others = everything[::2], everything[1::2]

    def read(responses: list[str]) -> list[Likelihoods]:
        return read_likelihoods(loaded, [PROMPT] * len(responses), responses)

    before = read(members), read(others)
    base = attack_results(
        joined(members, before[0], before[0]),
        joined(others, before[1], before[1]),
        samples=200,
        run_seed="s",
    )
    by_name = {row.attack: row for row in base}
    assert by_name["loss"].auc_low < 0.5 < by_name["loss"].auc_high
    assert by_name["calibrated"].auc == 0.5
    optimiser = torch.optim.AdamW(loaded.model.parameters(), lr=3e-3)
    rows = [loaded.tokenizer(PROMPT + text)["input_ids"] for text in members]
    width = max(len(row) for row in rows)
    pad = loaded.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    for _ in range(150):
        loss = loaded.model(
            input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100)
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    fitted = attack_results(
        joined(members, read(members), before[0]),
        joined(others, read(others), before[1]),
        samples=200,
        run_seed="s",
    )
    aucs = {row.attack: row.auc for row in fitted}
    # A base that has never seen the words differs widely between texts, which blurs calibration.
    assert aucs.pop("calibrated") > 0.8
    assert min(aucs.values()) > 0.95
