"""A generator: one model, loaded, that answers through the completions store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from refine_dagster.device import Device
from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.knobs import GeneratorKnobs
from refine_dagster.language_model import ModelRef, loaded_model
from refine_dagster.lineage.completions import CompletionsStore


@dataclass(frozen=True)
class GeneratorSession:
    """Answers requests for as long as its model is loaded.

    Attributes:
        backend: runs what the store does not have.
        store: answers what it has, and counts.
        model: the model's fingerprint, which rows name as their policy.
    """

    backend: Backend
    store: CompletionsStore
    model: str

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Answer in order (`request.Complete`)."""
        return self.store.complete(self.backend, requests)


@contextmanager
def open_generator(
    ref: ModelRef, device: Device, store: CompletionsStore, knobs: GeneratorKnobs
) -> Iterator[GeneratorSession]:
    """Load a model, lend it, give its memory back."""
    from refine_dagster.generation.transformers_backend import TransformersBackend

    with loaded_model(ref, device) as loaded:
        backend = TransformersBackend(loaded, knobs.batch_size)
        yield GeneratorSession(backend, store, ref.fingerprint)
