"""What all tests share: which of them are slow, a tiny model, and a CPU session."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
from absl import logging as absl_logging

from refine_dagster.config.models import DeviceConfig
from refine_dagster.models.device import Device, device_session
from tests.builders.tiny_model import write_tiny_model
from tests.builders.warehouse import cheap_planning
from tests.builders.writing_model import write_writing_model
from tests.guard import MARK, Guard

# Files that make the homes which others copy, then the longest.
FIRST = (
    "test_whole_graph.py",
    "test_retraction.py",
    "test_resume_after_kill.py",
    "test_incremental_equals_rebuild.py",
)
# Fixtures that train a model or run the graph: a test that uses one is slow.
SLOW_FIXTURES = {
    "built_home",
    "first_assets",
    "tiny_home",
    "tiny_run",
    "tiny_model_folder",
    "writing_model_folder",
}

# Folders with many small warehouses.
PLANNED_CHEAPLY = {"docs", "lineage", "warehouse"}

_guard = Guard()


def pytest_configure() -> None:
    """Put the guard's watches in place before anything trains."""
    _guard.install()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and put real runs first: two processes should end together."""
    for item in items:
        if SLOW_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(MARK)

    def place(item: pytest.Item) -> tuple[int, bool]:
        name = item.path.name
        first = FIRST.index(name) if name in FIRST else len(FIRST)
        return first, item.path.parent.name != "pipeline"

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Hold the test's fixtures to its mark."""
    with _held_to_its_mark(item):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Hold the test to its mark."""
    with _held_to_its_mark(item):
        return (yield)


def _held_to_its_mark(item: pytest.Item) -> AbstractContextManager[None]:
    return nullcontext() if item.get_closest_marker(MARK) else _guard.watching()


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of about 0.1 M parameters that writes letters and line breaks, and hardly sense."""
    return write_tiny_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def writing_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of about 0.1 M parameters that mostly writes well-formed instances."""
    return write_writing_model(tmp_path_factory.mktemp("writing_model"))


@pytest.fixture(autouse=True, scope="session")
def standard_error_stays_open() -> None:
    """Keep pytest's capture open in tests that run a command in this process.

    A run sets up logging, which closes every handler. That of absl, which `rouge_score` brings,
    closes its stream too, unless that is standard error as it is at that moment.
    """
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(autouse=True, scope="module")
def planned_cheaply(request: pytest.FixtureRequest) -> Iterator[None]:
    """Folders of many small queries run them as they are written: a quarter of the time less.

    Tests of the whole graph ask the same with DuckDB as it comes.
    """
    with cheap_planning() if request.path.parent.name in PLANNED_CHEAPLY else nullcontext():
        yield


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    """A deterministic session on the CPU, one thread, float32."""
    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        yield device
