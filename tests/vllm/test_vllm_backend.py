"""vLLM says what transformers says: greedy alike, sampled from the same distribution."""

from __future__ import annotations

import dataclasses
import math
import random
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from refine_dagster.generation.model_text import PromptTooLongError, model_text
from refine_dagster.generation.request import (
    Backend,
    Completion,
    Request,
    Sampling,
    Scoring,
    label_scores,
)
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.generation.vllm_backend import VllmBackend, as_one_adapter
from refine_dagster.generation.vllm_engine import CPU_BLOCK, VllmEngine, VllmError
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model
from refine_dagster.seeding import request_seed
from tests.builders.word_requests import WORDS, word_requests

GREEDY = Sampling(max_new_tokens=24, stop=("\n\n",))
SAMPLED = Sampling(max_new_tokens=24, temperature=0.9, top_p=0.95, stop=("\n\n",))


@pytest.fixture(scope="module")
def loaded(base: ModelRef, device: Device) -> Iterator[LoadedModel]:
    with loaded_model(base, device) as model:
        yield model


@pytest.fixture
def vllm(engine: VllmEngine, base: ModelRef, device: Device) -> VllmBackend:
    return on(engine, base, device)


def on(
    engine: VllmEngine, ref: ModelRef, device: Device, adapter: str | None = None
) -> VllmBackend:
    """A backend for a model on a running engine."""
    return VllmBackend(lambda: engine, model_text(ref, None), ref, device, 16, adapter)


def requests(count: int, sampling: Sampling = GREEDY) -> list[Request]:
    return word_requests(count, sampling)


def answers(backend: Backend, asked: Sequence[Request]) -> list[Completion]:
    found = dict(answer for batch in backend.generate(asked) for answer in batch)
    return [found[place] for place in range(len(asked))]


@pytest.mark.parametrize(
    "sampling",
    [
        GREEDY,
        dataclasses.replace(GREEDY, stop=("e", "\nOutput")),
        dataclasses.replace(GREEDY, stop=(), presence_penalty=1.5),
    ],
    ids=["plain", "stops", "penalty"],
)
def test_greedy_completions_are_those_of_transformers(
    vllm: VllmBackend, loaded: LoadedModel, sampling: Sampling
) -> None:
    asked = requests(48, sampling)
    expected = answers(TransformersBackend(loaded, 16), asked)
    assert answers(vllm, asked) == expected
    assert len({one.text for one in expected}) > 4


def test_end_token_ends(
    vllm: VllmBackend, loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tiny model has never read an end token: let the line break be one.
    (newline,) = loaded.tokenizer("\n")["input_ids"]
    monkeypatch.setattr(loaded.model.generation_config, "eos_token_id", [newline])
    monkeypatch.setattr(vllm._text, "eos", vllm._text.eos | {newline})
    asked = requests(32, dataclasses.replace(GREEDY, stop=()))
    found = answers(vllm, asked)
    assert found == answers(TransformersBackend(loaded, 16), asked)
    reasons = Counter(one.finish_reason for one in found)
    assert reasons["eos"] > 8


def nucleus(loaded: LoadedModel, request: Request, sampling: Sampling) -> dict[int, float]:
    """Probabilities of the first token, from the model's own logits."""
    ids = loaded.tokenizer(request.prompt, return_tensors="pt")["input_ids"]
    with torch.inference_mode():
        logits = loaded.model(input_ids=ids).logits[0, -1].double().numpy()
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    weights /= weights.sum()
    order = np.argsort(-weights, kind="stable")
    kept = order[: int(np.searchsorted(weights[order].cumsum(), sampling.top_p)) + 1]
    return {int(token): float(weights[token] / weights[kept].sum()) for token in kept}


def deviation(counts: Counter[int], expected: dict[int, float]) -> float:
    """Standard deviations by which a chi-square statistic is too large (Wilson and Hilferty)."""
    total = counts.total()
    often = {token for token, share in expected.items() if share * total >= 5}
    bins = [(counts[token], expected[token] * total) for token in often]
    rest = sum(expected.values()) - sum(expected[token] for token in often)
    if rest * total >= 5:
        bins.append((total - sum(seen for seen, _ in bins), rest * total))
    free = len(bins) - 1
    assert free >= 3
    statistic = sum((seen - wanted) ** 2 / wanted for seen, wanted in bins)
    spread = 2 / (9 * free)
    return ((statistic / free) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)


def test_sampled_tokens_agree_in_distribution(vllm: VllmBackend, loaded: LoadedModel) -> None:
    first = Sampling(max_new_tokens=1, temperature=1.2, top_p=0.9)
    # The tiny model knows a dozen things that could follow.
    prompt = "Instruction: Name the place of a"
    asked = [Request("propose", prompt, first, request_seed("draw", n)) for n in range(800)]
    expected = nucleus(loaded, asked[0], first)
    text = vllm._text
    start = text.prompt(prompt)
    tokens = {text.completion(start, [token], first, "length").text: token for token in expected}
    assert len(tokens) == len(expected)
    for backend in (vllm, TransformersBackend(loaded, 16)):
        counts = Counter(tokens[one.text] for one in answers(backend, asked))
        assert deviation(counts, expected) < 3.1
        # The same draws are told apart from a distribution that is not theirs.
        hotter = dataclasses.replace(first, temperature=1.6)
        assert deviation(counts, nucleus(loaded, asked[0], hotter)) > 3.1


def test_noise_is_the_request_s_own(vllm: VllmBackend) -> None:
    one = requests(1, SAMPLED)[0]
    others = [dataclasses.replace(one, seed=seed) for seed in (0, 1, 2**63 - 1, *range(2, 10))]
    texts = [completion.text for completion in answers(vllm, [one, one, *others])]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 6


def test_more_prompts_than_a_step_of_the_engine_reads(vllm: VllmBackend) -> None:
    """A step reads 4,096 tokens; a prompt cut at its end could not be sampled after on a CPU."""
    few = dataclasses.replace(SAMPLED, max_new_tokens=2)
    asked = [Request("propose", f"{n} {' '.join(WORDS * 8)}", few, n) for n in range(64)]
    found = answers(vllm, asked)
    assert sum(done.prompt_tokens for done in found) > 4096
    assert all(1 <= done.completion_tokens <= 2 for done in found)


def test_completions_hardly_depend_on_neighbours(vllm: VllmBackend) -> None:
    asked = requests(96, SAMPLED)
    together = answers(vllm, asked)
    assert len({one.text for one in together}) > 60
    order = list(range(len(asked)))
    random.Random(3).shuffle(order)
    shuffled = answers(vllm, [asked[n] for n in order])
    same = sum(shuffled[place] == together[n] for place, n in enumerate(order))
    alone = sum(answers(vllm, [asked[n]])[0] == together[n] for n in range(0, 96, 3))
    # Rounding depends on what is decoded together, and a draw between two tokens on rounding.
    assert same >= 94
    assert alone >= 31


def test_shared_prefixes_are_read_once(
    vllm: VllmBackend, engine: VllmEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = engine._engine.step
    cached: list[int] = []

    def watched() -> Any:
        outputs = step()
        cached.extend(one.num_cached_tokens for one in outputs)
        return outputs

    monkeypatch.setattr(engine._engine, "step", watched)
    shown = f"Instruction: {'bread drum ' * 40}\nInput:"
    for ending in (" rain", " sun", " rain rose"):
        answers(vllm, [Request("propose", shown + ending, GREEDY, 0)])
    shared = vllm.count_tokens(shown)
    assert shared > 2 * CPU_BLOCK
    # The last block is only partly of the shared text.
    whole = shared // CPU_BLOCK * CPU_BLOCK
    assert cached == [0, whole, whole]


def test_batches_are_yielded_one_by_one_and_may_be_left(vllm: VllmBackend) -> None:
    asked = requests(40, SAMPLED)
    sizes = [len(batch) for batch in vllm.generate(asked)]
    assert sum(sizes) == 40
    assert max(sizes) == 16
    stream = vllm.generate(asked)
    assert isinstance(stream, Generator)
    assert len(next(stream)) == 16
    stream.close()
    assert not vllm._engine()._engine.has_unfinished_requests()
    assert list(vllm.generate([])) == []
    (left,) = answers(vllm, [dataclasses.replace(asked[0], prompt="")])
    assert left.completion_tokens >= 1


def test_labels_are_scored_as_by_transformers(vllm: VllmBackend, loaded: LoadedModel) -> None:
    labels = Scoring((" the sea", " the garden at the sea", " 3", " yes", " the"))
    asked = [
        Request("review", one.prompt, labels if n % 2 else Scoring((" yes", " no")), 0)
        for n, one in enumerate(requests(24))
    ]
    mixed = [*asked, *requests(4)]
    found = answers(vllm, mixed)
    expected = answers(TransformersBackend(loaded, 16), mixed)
    for one, other in zip(found[:24], expected[:24], strict=True):
        assert label_scores(one) == pytest.approx(label_scores(other), rel=1e-5, abs=1e-4)
        assert dataclasses.replace(one, text="") == dataclasses.replace(other, text="")
    assert found[24:] == expected[24:]


def test_a_prompt_beyond_the_context_is_refused_alike(
    vllm: VllmBackend, loaded: LoadedModel
) -> None:
    long = Request("instance", "cat dog " * 400, GREEDY, 1)
    labels = dataclasses.replace(long, sampling=Scoring((" a",)))
    told = []
    for request in (long, labels):
        for backend in (vllm, TransformersBackend(loaded, 4)):
            with pytest.raises(PromptTooLongError) as caught:
                next(backend.generate([requests(1)[0], request]))
            told.append(str(caught.value))
    assert told[0] == told[1]
    assert told[2] == told[3]
    # What just fits is written.
    fits = loaded.tokenizer.decode(loaded.tokenizer(long.prompt)["input_ids"][: 512 - 24])
    assert vllm.count_tokens(fits) == 512 - 24
    asked = [dataclasses.replace(long, prompt=fits)]
    assert answers(vllm, asked) == answers(TransformersBackend(loaded, 4), asked)


def test_sampling_beyond_vllm_s_range_is_refused(vllm: VllmBackend) -> None:
    hot = requests(1, dataclasses.replace(SAMPLED, temperature=2.5))
    with pytest.raises(VllmError, match=r"temperatures up to 2 .* not 2\.5"):
        next(vllm.generate(hot))


def test_adapters_are_switched_on_one_engine(
    engine: VllmEngine,
    base: ModelRef,
    adapted: list[ModelRef],
    device: Device,
    tmp_path: Path,
) -> None:
    asked = requests(24)
    expected = []
    for ref in (base, *adapted):
        with loaded_model(ref, device) as merged:
            expected.append(answers(TransformersBackend(merged, 16), asked))
    texts = [[one.text for one in found] for found in expected]
    assert all(texts[a] != texts[b] for a in range(4) for b in range(a))

    backends = [on(engine, base, device)]
    for number, ref in enumerate(adapted):
        scratch = tmp_path / str(number)
        scratch.mkdir()
        folder, _ = as_one_adapter(ref.adapters, scratch)
        backends.append(on(engine, ref, device, folder))
    assert len({backend.fingerprint for backend in backends}) == 4
    for turn in (0, 1, 2, 3, 1, 0):
        assert answers(backends[turn], asked) == expected[turn], turn


def test_settings_of_torch_are_left_as_found(vllm: VllmBackend) -> None:
    set_num_threads = torch.set_num_threads
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    drawn = random.random(), np.random.random(), torch.rand(1).item()
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    answers(vllm, requests(4, SAMPLED))
    assert (random.random(), np.random.random(), torch.rand(1).item()) == drawn
    assert torch.are_deterministic_algorithms_enabled()
    assert torch.set_num_threads is set_num_threads
    assert set_num_threads.__module__ != "vllm.v1.worker.cpu_worker"
    assert torch.get_num_threads() == 1
