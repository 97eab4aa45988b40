"""The backend `endpoint` on stub servers, with a tokenizer for which a word is a token."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.endpoint.backend import EndpointBackend
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from tests.builders.stub_server import StubServer

CPU = Device("cpu", "float32", 1, True)
WORDS: Any = SimpleNamespace(
    count_tokens=lambda text: len(text.split()),
    cut=lambda text, most: " ".join(text.split()[:most]),
)


def endpoint_config(*stubs: StubServer, **settings: Any) -> GeneratorConfig:
    urls = tuple(stub.url for stub in stubs)
    return GeneratorConfig(
        backend="endpoint", **{"endpoint_urls": urls, "endpoint_model": "stub"} | settings
    )


@contextmanager
def endpoint_backend_on(
    *stubs: StubServer, ref: ModelRef | None = None, **settings: Any
) -> Iterator[EndpointBackend]:
    """A backend for the model `stub` on these servers."""
    config = endpoint_config(*stubs, **settings)
    with ExitStack() as resources:
        yield EndpointBackend(ref or ModelRef("folder", "f" * 64), CPU, config, WORDS, resources)
