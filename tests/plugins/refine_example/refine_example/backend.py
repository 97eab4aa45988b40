"""A backend: completions by a script instead of a model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.model_text import backend_fingerprint
from refine_dagster.generation.request import Completion, Request, Scoring, scored_completion
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef

VERBS = ("Describe", "Remember", "Compare", "Explain", "Praise", "Invent", "Question", "Count")
THINGS = (
    "a slow river",
    "an old lamp",
    "two friends",
    "the first snow",
    "my garden",
    "a long road",
)


class ScriptedBackend:
    """Answers each kind of request with words drawn by the request's seed."""

    name = "scripted"

    def __init__(self, ref: ModelRef, device: Device, batch_size: int) -> None:
        self.fingerprint = backend_fingerprint(self.name, ref, device)
        self._batch_size = batch_size

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (position in `requests`, completion)."""
        for start in range(0, len(requests), self._batch_size):
            batch = list(enumerate(requests[start : start + self._batch_size], start))
            yield [(position, self._answer(request)) for position, request in batch]

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens: a word is a token here."""
        return words(text)

    def cut(self, text: str, max_tokens: int) -> str:
        """The first `max_tokens` words."""
        return " ".join(text.split()[:max_tokens])

    def _answer(self, request: Request) -> Completion:
        random = Random(f"{request.seed} {request.prompt}")
        if isinstance(request.sampling, Scoring):
            labels = request.sampling.labels
            scores = [-random.random() for _ in labels]
            return scored_completion(scores, words(request.prompt), [words(one) for one in labels])
        text = f" {random.choice(VERBS)} {random.choice(THINGS)} and {random.choice(THINGS)}."
        if request.role == "instance":
            text = f" <noinput>\nOutput:{text}"
        return Completion(text, "stop", words(request.prompt), words(text))


def words(text: str) -> int:
    return len(text.split())


@contextmanager
def scripted_backend(
    ref: ModelRef, device: Device, config: GeneratorConfig
) -> Iterator[ScriptedBackend]:
    """Load what the backend needs, lend it, and free it at the end: here there is nothing."""
    yield ScriptedBackend(ref, device, config.batch_size or 32)
