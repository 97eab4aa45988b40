"""Models that cost nothing, so that the pipeline's stages can run on them.

A backend answers from a function, a training leaves the hash of its manifest as weights, and the
judge is given. Everything else of a stage is the project's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from refine_dagster import stages
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession
from refine_dagster.generation.request import Completion, Request
from refine_dagster.judge.judge import Judge
from refine_dagster.judge.quality import JudgeQuality
from refine_dagster.models.device import Device
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import ModelRef
from refine_dagster.runtime import Runtime
from refine_dagster.training import report
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore, hash_manifest

# asset -> the record of a training, from its manifest
Records = Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]]


def policy_step(step: int, **figures: float) -> dict[str, Any]:
    """A step of a policy's record."""
    parts = ("naturalness", "coherence", "understandability", "reward_model")
    others = ("reward", "format_valid", "kl", "entropy", "length", "diversity", "loss")
    return {"step": step, **dict.fromkeys((*parts, *others), 0.5), **figures}


RECORDS: Records = {
    "base_model": lambda manifest: {"steps": [{"step": 1, "loss": 2.5, "learning_rate": 0.01}]},
    "feedback_judge": lambda manifest: {
        "accuracies": [],
        "held_out_examples": 4,
        "fingerprint": hash_manifest(manifest),
    },
    "rl_policy_checkpoint": lambda manifest: {
        "steps": [policy_step(1), policy_step(2)],
        "ended_by": "steps",
    },
    **dict.fromkeys(
        ("policy_start", "fine_tuned_model"),
        lambda manifest: {
            "rows": len(manifest["examples"]),
            "left_out": 0,
            "steps": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1.5}],
        },
    ),
}


@dataclass
class FakeBackend:
    """A backend that answers from a function of the request; a word is a token."""

    fingerprint: str
    answer: Callable[[Request], str]
    name: str = "fake"

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """All answers in one batch."""
        yield [
            (place, Completion(text, "stop", len(request.prompt.split()), len(text.split())))
            for place, request in enumerate(requests)
            for text in [self.answer(request)]
        ]

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def cut(self, text: str, max_tokens: int) -> str:
        return " ".join(text.split()[:max_tokens])


class FakeTraining(CheckpointStore):
    """Checkpoints that nobody trains: the only weight is the hash of the manifest."""

    def __init__(self, root: Path, records: Records = RECORDS) -> None:
        super().__init__(root)
        self._records = records

    def train_or_reuse(
        self, asset: str, manifest: Mapping[str, Any], train: Callable[[Path], dict[str, Any]]
    ) -> Checkpoint:
        def write(out: Path) -> dict[str, Any]:
            (out / ADAPTER_CONFIG).write_text("{}", encoding="utf-8")
            (out / ADAPTER_WEIGHTS).write_text(hash_manifest(manifest), encoding="utf-8")
            return self._records[asset](manifest)

        return super().train_or_reuse(asset, manifest, write)


def fake_runtime(
    run_seed: str,
    checkpoints: CheckpointStore,
    store: CompletionsStore,
    answer: Callable[[ModelRef, Request], str],
) -> Runtime:
    """A runtime whose models answer by `answer(model, request)`."""

    def generator(ref: ModelRef) -> AbstractContextManager[GeneratorSession]:
        backend = FakeBackend(ref.fingerprint, lambda request: answer(ref, request))
        return nullcontext(GeneratorSession(backend, store, ref.fingerprint))

    return Runtime(run_seed, Device("cpu", "float32", 1, True), checkpoints, generator)


@contextmanager
def fake_models(judge: Judge) -> Iterator[None]:
    """Stages that would read a model's files are given its size, or the judge, instead."""
    size = SimpleNamespace(parameters=1_000_000, vocab=2000, context=512)
    with ExitStack() as stack:
        for owner, name, value in (
            (report, "model_size", lambda ref: size),
            (stages, "loaded_judge", lambda folder, device, base: nullcontext(judge)),
            (stages, "judge_quality", lambda *_: JudgeQuality((), ())),
        ):
            stack.enter_context(mock.patch.object(owner, name, value))
        yield
