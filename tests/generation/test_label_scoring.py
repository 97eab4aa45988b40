"""Labels are scored by the model's own probabilities, alone or in company, and are kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.model_text import PromptTooLongError
from refine_dagster.generation.request import Completion, Request, Sampling, Scoring, label_scores
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from tests.builders.warehouse import new_warehouse

LABELS = (" yes", " no", " rain and bread")
WORDS = ("cat", "dog", "sun", "rain", "ship", "bread")


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> Iterator[LoadedModel]:
    with (
        device_session(DeviceConfig(device="cpu", threads=1)) as device,
        loaded_model(resolve_model(str(tiny_model_folder)), device) as model,
    ):
        yield model


def questions(count: int) -> list[Request]:
    rng = random.Random(5)
    return [
        Request("review", f"Q {' '.join(rng.choices(WORDS, k=2 + 3 * n))}\nA:", Scoring(LABELS), 0)
        for n in range(count)
    ]


def answers(backend: TransformersBackend, requests: list[Request]) -> dict[int, Completion]:
    return {place: done for batch in backend.generate(requests) for place, done in batch}


def test_scores_are_sums_of_the_models_log_probabilities(loaded: LoadedModel) -> None:
    import torch

    request = questions(4)[3]
    done = answers(TransformersBackend(loaded, 8), [request])[0]
    prompt = loaded.tokenizer(request.prompt)["input_ids"]
    for label, score in zip(LABELS, label_scores(done), strict=True):
        ids = loaded.tokenizer(label, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logits = loaded.model(torch.tensor([[*prompt, *ids]])).logits[0].double()
        logs = logits.log_softmax(-1)
        expected = sum(
            float(logs[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)
        )
        assert score == pytest.approx(expected, abs=1e-4)
    assert done.finish_reason == "scored"
    assert done.prompt_tokens == len(prompt)


def test_a_score_does_not_depend_on_its_neighbours(loaded: LoadedModel) -> None:
    requests = questions(30)
    together = answers(TransformersBackend(loaded, 32), requests)
    assert sorted(together) == list(range(30))
    for place in (0, 11, 29):
        alone = answers(TransformersBackend(loaded, 3), [requests[place]])
        assert alone[0] == together[place]


def test_texts_and_labels_may_be_asked_together(loaded: LoadedModel) -> None:
    text = Request("rewrite", "cat dog", Sampling(4), 1)
    found = answers(TransformersBackend(loaded, 8), [questions(1)[0], text])
    assert found[0].finish_reason == "scored"
    assert found[1].finish_reason != "scored"
    with pytest.raises(ValueError, match="has no labels"):
        label_scores(found[1])


def test_the_store_keeps_scores_bit_for_bit(loaded: LoadedModel, tmp_path: Path) -> None:
    backend = TransformersBackend(loaded, 8)
    warehouse = new_warehouse(tmp_path / "w.duckdb")
    first = CompletionsStore(warehouse, "run").complete(backend, questions(5))
    again = CompletionsStore(warehouse, "again")
    second = again.complete(backend, questions(5))
    assert [label_scores(done) for done in first] == [label_scores(done) for done in second]
    assert again.usage["review"].sent == 0
    row = warehouse.query("SELECT sampling FROM store.completions LIMIT 1").item()
    assert row == '{"labels":[" yes"," no"," rain and bread"]}'


def test_labels_are_part_of_the_key() -> None:
    first = Request("review", "p", Scoring((" a", " b")), 0)
    assert first.key("m") != Request("review", "p", Scoring((" b", " a")), 0).key("m")
    assert first.key("m") != Request("review", "p", Sampling(1), 0).key("m")


def test_a_question_that_does_not_fit_is_refused(loaded: LoadedModel) -> None:
    long = Request("review", "cat " * 3000, Scoring(LABELS), 0)
    with pytest.raises(PromptTooLongError, match="request of role review"):
        list(TransformersBackend(loaded, 8).generate([long]))


def test_probabilities_of_all_one_token_labels_sum_to_one(loaded: LoadedModel) -> None:
    vocabulary = [
        loaded.tokenizer.decode([token]) for token in range(loaded.model.config.vocab_size)
    ]
    alone = [
        label
        for token, label in enumerate(vocabulary)
        if loaded.tokenizer(label, add_special_tokens=False)["input_ids"] == [token]
    ]
    request = Request("review", "cat dog", Scoring(tuple(alone)), 0)
    scores = label_scores(answers(TransformersBackend(loaded, 32), [request])[0])
    assert 0.3 < float(np.exp(scores).sum()) <= 1.0 + 1e-6
