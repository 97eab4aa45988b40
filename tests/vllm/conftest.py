"""What the tests on vLLM share: a model, two adapters of it, and one engine for both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.generation.model_text import model_text
from refine_dagster.generation.vllm_engine import VllmEngine, vllm_engine
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import ModelRef, resolve_model, with_adapter
from tests.builders.random_adapter import random_adapter


@pytest.fixture(scope="session")
def device() -> Iterator[Device]:
    """A deterministic session on the CPU, as the pipeline's assets have it."""
    with device_session(DeviceConfig(device="cpu", threads=1)) as lent:
        yield lent


@pytest.fixture(scope="session")
def base(tiny_model_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_model_folder))


@pytest.fixture(scope="session")
def adapted(base: ModelRef, tmp_path_factory: pytest.TempPathFactory) -> list[ModelRef]:
    """The base with one adapter, with another, and with the second on top of the first."""
    folder = tmp_path_factory.mktemp("adapters")
    first = random_adapter(base, folder / "first", seed=1, rank=4)
    second = random_adapter(base, folder / "second", seed=2, rank=8)
    return [
        with_adapter(base, first),
        with_adapter(base, second),
        with_adapter(with_adapter(base, first), second),
    ]


@pytest.fixture(scope="module")
def engine(base: ModelRef, device: Device) -> Iterator[VllmEngine]:
    """An engine on the base, with room for adapters of rank 12.

    For one module: a process may have one engine at a time.
    """
    config = GeneratorConfig(backend="vllm", batch_size=64)
    with vllm_engine(base, model_text(base, None), device, config, lora_rank=12) as lent:
        yield lent
