"""Completions are a function of the request; ends, budgets of length and sampling are exact."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.decoding import choose_tokens
from refine_dagster.generation.model_text import PromptTooLongError
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.device import device_session
from refine_dagster.models.language_model import LoadedModel, loaded_model, resolve_model
from refine_dagster.models.padding import ROWS
from tests.builders.word_requests import word_requests

SAMPLING = Sampling(max_new_tokens=24, temperature=0.9, top_p=0.95, stop=("\n\n",))


@pytest.fixture(scope="module")
def loaded(tiny_model_folder: Path) -> Iterator[LoadedModel]:
    with (
        device_session(DeviceConfig(device="cpu", threads=1)) as device,
        loaded_model(resolve_model(str(tiny_model_folder)), device) as model,
    ):
        yield model


def _requests(count: int, sampling: Sampling = SAMPLING) -> list[Request]:
    return word_requests(count, sampling)


def _run(backend: TransformersBackend, requests: list[Request]) -> list[tuple[int, Completion]]:
    """All batches of the backend, one after the other."""
    return [answer for batch in backend.generate(requests) for answer in batch]


def test_a_completion_does_not_depend_on_its_neighbours(loaded: LoadedModel) -> None:
    requests = _requests(240)
    together = dict(_run(TransformersBackend(loaded, 32), requests))
    assert sorted(together) == list(range(240))
    assert len({completion.text for completion in together.values()}) > 120

    order = list(range(240))
    random.Random(3).shuffle(order)
    shuffled = dict(_run(TransformersBackend(loaded, 32), [requests[n] for n in order]))
    assert all(shuffled[place] == together[n] for place, n in enumerate(order))

    assert dict(_run(TransformersBackend(loaded, 7), requests)) == together

    backend = TransformersBackend(loaded, 32)
    for number in range(0, 240, 6):
        assert list(_run(backend, [requests[number]])) == [(0, together[number])]


def test_logits_are_equal_bit_for_bit_in_any_place_of_a_batch(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[int, list[bytes]] = {}

    def record(
        logits: np.ndarray,
        written: list[list[int]],
        samplings: list[Sampling],
        uniforms: list[float],
    ) -> list[int]:
        for row, uniform in zip(logits, uniforms, strict=True):
            seen.setdefault(round(uniform * 2**53), []).append(row.tobytes())
        return choose_tokens(logits, written, samplings, uniforms)

    monkeypatch.setattr("refine_dagster.generation.decoding.choose_tokens", record)
    requests = _requests(24)
    backend = TransformersBackend(loaded, 32)
    list(_run(backend, requests))
    list(_run(backend, requests[::-1]))
    for request in requests:
        list(_run(backend, [request]))
    assert len(seen) > 200
    assert all(len(rows) == 3 and len(set(rows)) == 1 for rows in seen.values())


def test_noise_is_the_request_s_own(loaded: LoadedModel) -> None:
    backend = TransformersBackend(loaded, 8)
    one = _requests(1)[0]
    others = [dataclasses.replace(one, seed=seed) for seed in range(12)]
    texts = [completion.text for _, completion in _run(backend, [one, one, *others])]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 6


def test_greedy_needs_no_seed_and_follows_the_model(loaded: LoadedModel) -> None:
    import torch

    sampling = Sampling(max_new_tokens=12)
    request = dataclasses.replace(_requests(1, sampling)[0], seed=1)
    again = dataclasses.replace(request, seed=2)
    backend = TransformersBackend(loaded, 4)
    first, second = (completion for _, completion in _run(backend, [request, again]))
    assert first == second
    ids = loaded.tokenizer(request.prompt, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.inference_mode():
        for _ in range(first.completion_tokens):
            token = loaded.model(input_ids=ids).logits[0, -1].argmax()
            ids = torch.cat([ids, token.view(1, 1)], dim=1)
    expected = loaded.tokenizer.decode(ids[0, start:], skip_special_tokens=True)
    assert first.text == expected


def test_finish_reasons(loaded: LoadedModel) -> None:
    hot = Sampling(max_new_tokens=40, temperature=2.0)
    open_end = list(_run(TransformersBackend(loaded, 16), _requests(64, hot)))
    for _, completion in open_end:
        assert (completion.finish_reason == "length") == (completion.completion_tokens == 40)
    stops = dataclasses.replace(hot, stop=("e", "\nOutput"))
    for _, completion in _run(TransformersBackend(loaded, 16), _requests(64, stops)):
        assert "e" not in completion.text
        assert "\nOutput" not in completion.text
    reasons = Counter(
        completion.finish_reason
        for _, completion in _run(TransformersBackend(loaded, 16), _requests(64, stops))
    )
    assert reasons["stop"] > 50


def test_stop_string_cuts_the_very_text_that_would_have_been(loaded: LoadedModel) -> None:
    free = dataclasses.replace(SAMPLING, stop=())
    backend = TransformersBackend(loaded, 16)
    whole = dict(_run(backend, _requests(48, free)))
    stop = dataclasses.replace(SAMPLING, stop=("at the", "\n"))
    for number, completion in _run(backend, _requests(48, stop)):
        text = whole[number].text
        cuts = [text.index(end) for end in stop.stop if end in text]
        assert completion.text == (text[: min(cuts)] if cuts else text)
        assert (completion.finish_reason == "stop") == bool(cuts)
        assert completion.completion_tokens <= whole[number].completion_tokens


def test_end_token_ends(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    # The tiny model has never read an end token: let the line break be one.
    (newline,) = loaded.tokenizer("\n")["input_ids"]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [newline])
    done = [one for _, one in _run(TransformersBackend(loaded, 16), _requests(32))]
    ended = [one for one in done if one.finish_reason == "eos"]
    assert len(ended) > 8
    assert all("\n" not in one.text for one in done)
    assert all(
        one.completion_tokens == len(loaded.tokenizer(one.text)["input_ids"]) + 1
        for one in ended
        if one.text.isascii() and one.text.endswith(".")
    )


def test_batches_are_yielded_one_by_one(loaded: LoadedModel) -> None:
    sizes = [len(batch) for batch in TransformersBackend(loaded, 8).generate(_requests(40))]
    assert sum(sizes) == 40
    assert max(sizes) == 8
    stream = TransformersBackend(loaded, 8).generate(_requests(40))
    assert isinstance(stream, Generator)
    assert 1 <= len(next(stream)) <= 8
    stream.close()


def test_a_batch_of_a_deterministic_backend_may_take_several_passes(loaded: LoadedModel) -> None:
    assert loaded.device.deterministic
    short = [one for one in _requests(120) if len(one.prompt) < 150][: 2 * ROWS + 5]
    short = [
        dataclasses.replace(one, sampling=Sampling(max_new_tokens=4, temperature=0.9))
        for one in short
    ]
    by_pass = list(TransformersBackend(loaded, ROWS).generate(short))
    together = list(TransformersBackend(loaded, 2 * ROWS).generate(short))
    assert all(len(batch) <= ROWS for batch in by_pass)
    assert ROWS < max(len(batch) for batch in together) <= 2 * ROWS
    assert len(together) < len(by_pass)
    # One after the other, in the same order and with the same answers.
    assert [one for batch in together for one in batch] == [
        one for batch in by_pass for one in batch
    ]


def test_a_prompt_beyond_the_context_is_refused(loaded: LoadedModel) -> None:
    fits = Request("instance", "a " * 200, SAMPLING, 1)
    long = Request("instance", "cat dog " * 400, SAMPLING, 1)
    with pytest.raises(PromptTooLongError, match=r"prompt of \d+ tokens and 24 new") as caught:
        next(TransformersBackend(loaded, 4).generate([fits, long]))
    assert "512" in str(caught.value)
    assert "instances.max_demonstration_tokens" in str(caught.value.fix)


def test_nothing_asked_and_empty_prompt(loaded: LoadedModel) -> None:
    backend = TransformersBackend(loaded, ROWS)
    assert list(_run(backend, [])) == []
    ((_, completion),) = _run(backend, [Request("propose", "", SAMPLING, 5)])
    assert completion.completion_tokens >= 1


@pytest.mark.parametrize("text", ["Name the place of a cat.", "naïve 日本 🙂 cats", "\n\n  x", ""])
@pytest.mark.parametrize("most", [0, 1, 3, 1000])
def test_cut_is_the_longest_start_that_fits(loaded: LoadedModel, text: str, most: int) -> None:
    backend = TransformersBackend(loaded, 4)
    cut = backend.cut(text, most)
    assert text.startswith(cut)
    assert backend.count_tokens(cut) <= most
    if cut != text:
        assert backend.count_tokens(text[: len(cut) + 1]) > most


def test_fingerprint_names_what_rounding_depends_on(
    loaded: LoadedModel, tiny_model_folder: Path
) -> None:
    free = dataclasses.replace(loaded.device, deterministic=False)
    half = dataclasses.replace(loaded.device, dtype="bfloat16")
    devices = [loaded.device, free, half]
    names = {
        TransformersBackend(dataclasses.replace(loaded, device=device), 4).fingerprint
        for device in devices
    }
    assert len(names) == 3
    assert TransformersBackend(loaded, 9).fingerprint in names


def test_without_determinism_completions_are_as_good(
    loaded: LoadedModel, tiny_model_folder: Path
) -> None:
    free = dataclasses.replace(
        loaded, device=dataclasses.replace(loaded.device, deterministic=False)
    )
    requests = _requests(40)
    exact = dict(_run(TransformersBackend(loaded, 16), requests))
    loose = dict(_run(TransformersBackend(free, 10), requests))
    # Rounding differs, and with it a token here and there.
    assert sum(exact[n].text == loose[n].text for n in range(40)) >= 36


def choose_token(
    logits: np.ndarray, written: Sequence[int], sampling: Sampling, uniform: float
) -> int:
    """The choice for a row that is alone."""
    return choose_tokens(logits[np.newaxis], [written], [sampling], [uniform])[0]


def by_definition(
    logits: np.ndarray, written: Sequence[int], sampling: Sampling, uniform: float
) -> int:
    """The same choice written out for one row, as its documentation says it."""
    scores = logits.astype(np.float64)
    if written:
        scores[np.unique(written)] -= sampling.presence_penalty
    if sampling.temperature <= 0:
        return int(scores.argmax())
    weights = np.exp((scores - scores.max()) / sampling.temperature)
    ids = np.arange(weights.size)
    if sampling.top_p < 1:
        ids = np.flatnonzero(weights >= weights.sum() * (1 - sampling.top_p) / weights.size)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        reach = weights.sum() * sampling.top_p
        ids = ids[: int(np.searchsorted(weights[ids].cumsum(), reach)) + 1]
    sums = weights[ids].cumsum()
    place = int(np.searchsorted(sums, uniform * sums[-1], side="right"))
    return int(ids[min(place, ids.size - 1)])


def test_a_row_s_token_is_the_same_in_any_company() -> None:
    rng = np.random.default_rng(5)
    samplings = [
        Sampling(max_new_tokens=1, temperature=temperature, top_p=top_p, presence_penalty=penalty)
        for temperature in (0.0, 0.7, 1.0, 1.3)
        for top_p in (0.3, 0.95, 0.9999, 1.0)
        for penalty in (0.0, 2.0)
    ]
    for size in (7, 1000, 2047):
        logits = (rng.standard_normal((len(samplings), size)) * 3).astype(np.float32)
        written = [rng.integers(size, size=n).tolist() for n in range(len(samplings))]
        uniforms = [0.0, 1 - 2.0**-53, *rng.random(len(samplings) - 2)]
        rows = list(zip(logits, written, samplings, uniforms, strict=True))
        expected = [by_definition(*row) for row in rows]
        assert choose_tokens(logits, written, samplings, uniforms) == expected
        assert [choose_token(*row) for row in rows] == expected
        assert len(set(expected)) > 3


def test_choice_by_inverse_distribution() -> None:
    logits = np.log(np.array([0.5, 0.25, 0.125, 0.125], dtype=np.float32))
    sampling = Sampling(max_new_tokens=1, temperature=1.0)
    places = [choose_token(logits, [], sampling, u) for u in (0.0, 0.4, 0.6, 0.8, 0.9)]
    assert places == [0, 0, 1, 2, 3]
    nucleus = dataclasses.replace(sampling, top_p=0.7)
    chosen = Counter(choose_token(logits, [], nucleus, (u + 0.5) / 300) for u in range(300))
    assert chosen == {0: 200, 1: 100}
    narrow = dataclasses.replace(sampling, top_p=0.1)
    assert {choose_token(logits, [], narrow, u / 50) for u in range(50)} == {0}


def test_presence_penalty_counts_a_token_once() -> None:
    logits = np.array([2.0, 1.0, 0.0], dtype=np.float32)
    greedy = Sampling(max_new_tokens=1, presence_penalty=1.5)
    assert choose_token(logits, [], greedy, 0.0) == 0
    assert choose_token(logits, [0, 0, 0], greedy, 0.0) == 1
    assert choose_token(logits, [0, 1], greedy, 0.0) == 0


def test_greedy_ties_go_to_the_lowest_id() -> None:
    logits = np.array([0.0, 3.0, 3.0], dtype=np.float32)
    assert choose_token(logits, [], Sampling(max_new_tokens=1), 0.99) == 1
