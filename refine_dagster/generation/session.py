"""A generator: one model, loaded, that answers through the completions store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.model_text import backend_fingerprint
from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.registry import BACKENDS


@dataclass(frozen=True)
class GeneratorSession:
    """Answers requests for as long as its model is loaded.

    Attributes:
        backend: runs what the store does not have.
        store: answers what it has, and counts.
        model: the model's fingerprint, which rows name as their policy.
        also: fingerprints of other backends whose completions may answer.
    """

    backend: Backend
    store: CompletionsStore
    model: str
    also: tuple[str, ...] = ()

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer in order (`request.Complete`)."""
        return self.store.complete(self.backend, requests, self.also)

    def stored(self, requests: Sequence[Request]) -> list[bool]:
        """Whether the store has the answer to each request."""
        return self.store.stored(self.backend.fingerprint, requests, self.also)

    def key_of(self, request: Request) -> str:
        """The key of the completion that answered a request."""
        return self.store.key_of(self.backend.fingerprint, request)


@contextmanager
def open_generator(
    ref: ModelRef, device: Device, store: CompletionsStore, config: GeneratorConfig
) -> Iterator[GeneratorSession]:
    """Load a model for the block; release its memory at the end."""
    also: tuple[str, ...] = ()
    if config.reuse_other_backends:
        also = tuple(
            backend_fingerprint(name, ref, device)
            for name in BACKENDS.names()
            if name != config.backend
        )
    with BACKENDS.get(config.backend)(ref, device, config) as backend:
        yield GeneratorSession(backend, store, ref.fingerprint, also)
