"""Out of memory: batches are halved, results stay what they were, and the run says so.

A CPU has no such error, so the model raises PyTorch's own above a number of sequences, in the
forward pass where a card would.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from refine_dagster import progress
from refine_dagster.config.learning import ReinforcementConfig, SupervisedConfig
from refine_dagster.config.models import DeviceConfig
from refine_dagster.generation.request import Request, Sampling, Scoring, label_scores
from refine_dagster.generation.transformers_backend import TransformersBackend
from refine_dagster.models.batches import MemoryFullError, in_batches_that_fit
from refine_dagster.models.device import Device, DeviceUse, device_session, session_figures
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model, resolve_model
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.training.reinforcement import PolicyPrompt, PolicyTraining, train_policy
from refine_dagster.training.sft import fine_tune
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.models.test_memory_budget import Notes

WORDS = ("cat", "dog", "sun", "rain", "ship")
Limit = Callable[[int], None]


@pytest.fixture
def limit(monkeypatch: pytest.MonkeyPatch) -> Limit:
    """Sets the most sequences that a forward pass has memory for; 0 sets none."""
    import torch
    from transformers import LlamaModel

    most, forward = 0, LlamaModel.forward

    def bounded(self: object, *args: object, **kwargs: object) -> object:
        ids = kwargs.get("input_ids")
        rows = len(ids if ids is not None else kwargs["inputs_embeds"])  # type: ignore[arg-type]
        if most and rows > most:
            raise torch.OutOfMemoryError(f"no memory for {rows} sequences")
        return forward(self, *args, **kwargs)

    def set_limit(rows: int) -> None:
        nonlocal most
        most = rows

    monkeypatch.setattr(LlamaModel, "forward", bounded)
    return set_limit


@pytest.fixture
def device() -> Iterator[Device]:
    with device_session(DeviceConfig(device="cpu", threads=1)) as lent:
        yield lent


@pytest.fixture
def base(tiny_model_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_model_folder))


@pytest.fixture
def free(base: ModelRef, device: Device) -> Iterator[LoadedModel]:
    """A model on a device whose batches may have any shape."""
    with loaded_model(base, replace(device, deterministic=False)) as loaded:
        yield loaded


def _again(device: Device) -> Device:
    """The same device in a session that nothing has happened in."""
    return replace(device, use=DeviceUse())


def test_generation_goes_on_in_halves(free: LoadedModel, limit: Limit) -> None:
    requests = [
        Request("propose", f"Say {word} {n}.", Sampling(max_new_tokens=8, temperature=0.9), n)
        for n, word in enumerate(WORDS * 4)
    ]
    whole = dict(_all(free, requests))
    limit(3)
    notes, told = Notes(), replace(free, device=_again(free.device))
    with progress.reporting(notes):
        parts = dict(_all(told, requests))
    # Rounding differs with the batch, and with it a token here and there.
    assert sum(parts[n] == whole[n] for n in range(20)) >= 18
    use = told.device.use
    # 16 requests, then halves of them: 8, 4, 2; the last four begin with two.
    assert use.batch_sizes == {"decoding": 2}
    assert [line.split(",")[0] for line in use.backed_off] == [
        f"decoding: out of memory with a batch of {batch}" for batch in (16, 8, 4)
    ]
    assert notes.told == use.backed_off
    limit(1)
    assert len(dict(_all(replace(free, device=_again(free.device)), requests))) == 20


def _all(loaded: LoadedModel, requests: list[Request]) -> Iterator[tuple[int, object]]:
    for batch in TransformersBackend(loaded, 16).generate(requests):
        yield from batch


def test_labels_are_scored_in_halves(free: LoadedModel, limit: Limit) -> None:
    scoring = Scoring((" yes", " no"))
    requests = [Request("review", f"Is {word} short?", scoring, 0) for word in WORDS]

    def scores(loaded: LoadedModel) -> list[tuple[float, ...]]:
        backend = TransformersBackend(loaded, 10)
        done = {n: one for batch in backend.generate(requests) for n, one in batch}
        return [label_scores(done[n]) for n in range(len(requests))]

    whole = scores(free)
    limit(2)
    told = replace(free, device=_again(free.device))
    for found, expected in zip(scores(told), whole, strict=True):
        assert found == pytest.approx(expected, abs=1e-4)
    assert told.device.use.batch_sizes == {"scoring": 2}


def test_deterministic_passes_have_one_shape(base: ModelRef, device: Device, limit: Limit) -> None:
    requests = [Request("propose", word, Sampling(max_new_tokens=4), 0) for word in WORDS]
    with loaded_model(base, device) as loaded:
        limit(15)
        with pytest.raises(MemoryFullError, match=r"decoding: memory runs out[\s\S]*deterministic"):
            list(TransformersBackend(loaded, 4).generate(requests))
    assert device.use.backed_off == []


def test_a_batch_from_memory_answers_alike(free: LoadedModel) -> None:
    requests = [Request("propose", word, Sampling(max_new_tokens=6), 0) for word in WORDS * 3]
    batches = list(TransformersBackend(free, None).generate(requests))
    # A machine with memory for fewer than 15 such requests runs no tests.
    assert [len(batch) for batch in batches] == [15]
    assert "generation" in free.device.use.budgets
    assert dict(batches[0]) == dict(
        one for batch in TransformersBackend(free, 15).generate(requests) for one in batch
    )


def test_other_errors_pass(device: Device) -> None:
    def fail(part: Sequence[int]) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        list(in_batches_that_fit(device, "work", [1, 2], fail, "fix"))
    assert device.use.backed_off == []


def test_fine_tuning_accumulates_what_does_not_fit(
    base: ModelRef, device: Device, tmp_path: Path, limit: Limit
) -> None:
    examples = [Example("Say the word.", word * n, word) for word in WORDS for n in (1, 2, 3, 4)]
    config = SupervisedConfig(batch_size=8, max_tokens=128, lora_rank=4)

    def losses(out: str) -> list[float]:
        # 20 examples: the third of every three steps has four.
        trained = fine_tune(
            base, examples, config, tmp_path / out, steps=4, device=device, run_seed="s"
        )
        return [step.loss for step in trained.steps]

    whole = losses("whole")
    assert "backed_off" not in session_figures(device)
    limit(3)
    notes = Notes()
    with progress.reporting(notes):
        parts = losses("parts")
    assert parts == pytest.approx(whole, rel=1e-4)
    assert device.use.batch_sizes == {"fine-tuning": 2}
    assert device.use.backed_off == [
        "fine-tuning: out of memory with a batch of 8, going on with 4 x 2 accumulated",
        "fine-tuning: out of memory with a batch of 4, going on with 2 x 4 accumulated",
    ]
    assert [note for note in notes.told if "out of memory" in note] == device.use.backed_off
    assert session_figures(device)["backed_off"] == device.use.backed_off
    # The session keeps what fits.
    assert losses("again") == parts
    assert len(device.use.backed_off) == 2


def _train(
    base: ModelRef, out: Path, device: Device, algorithm: str, resume: Path | None = None
) -> PolicyTraining:
    prompts = [PolicyPrompt(word, f"Write {word}.", f"Write {word}.\nOutput:") for word in WORDS]
    config = ReinforcementConfig.model_validate(
        {
            "algorithm": algorithm,
            "steps": 3,
            "prompts_per_step": 2,
            "group_size": 4,
            "lora_rank": 4,
            "save_every": 1,
            "max_kl": 100,
        }
    )
    prefers_short = FakeJudge(lambda row: scores_of(1 / (1 + len(row.output))))
    feedback = Feedback(prefers_short, PRESETS["balanced"], -1.0)
    return train_policy(
        base,
        prompts,
        feedback,
        config,
        out,
        max_new_tokens=8,
        device=device,
        run_seed="s",
        resume=resume,
    )


class _Full(Notes):
    """Memory becomes scarce once the first step of a training has been told."""

    def __init__(self, limit: Limit) -> None:
        super().__init__()
        self._limit = limit

    def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
        self._limit(2)


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_reinforcement_goes_on_from_its_last_state_with_smaller_passes(
    algorithm: str, base: ModelRef, device: Device, tmp_path: Path, limit: Limit
) -> None:
    whole = _train(base, tmp_path / "whole", device, algorithm)
    notes, told = _Full(limit), _again(device)
    with progress.reporting(notes):
        parts = _train(base, tmp_path / "parts", told, algorithm, tmp_path / "resume")
    assert [step.step for step in parts.steps] == [1, 2, 3]
    # The rollouts are the same, each with its own noise, and so are their rewards.
    assert parts.steps[0] == whole.steps[0]
    assert parts.steps[1].reward == pytest.approx(whole.steps[1].reward, abs=1e-3)
    assert [step.loss for step in parts.steps] == pytest.approx(
        [step.loss for step in whole.steps], abs=1e-3
    )
    assert told.use.batch_sizes["rollouts"] == 2
    assert told.use.batch_sizes["reinforcement"] == 2
    assert any(note.startswith("rollouts: out of memory with a batch of 8") for note in notes.told)
    assert any("reinforcement: out of memory with a batch of 4" in note for note in notes.told)
