"""The guard of the mark `slow`: it refuses training and runs, also where the refusal is caught."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from tests.guard import Guard, NotMarkedError
from tests.pipeline import children

# What the guard refuses is done here.
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def guard() -> Guard:
    import torch  # noqa: F401  # A watch is put on what is imported already, too.

    guard = Guard()
    guard.install()
    return guard


def train() -> None:
    import torch

    weight = torch.nn.Parameter(torch.ones(2))
    weight.sum().backward()
    torch.optim.SGD([weight], lr=0.1).step()


def run(folder: Path) -> None:
    run_pipeline(Home(folder / "home"), "offline", select="seed_tasks")


def run_command_line() -> None:
    subprocess.run([sys.executable, "-m", "refine_dagster.cli", "run", "--help"], check=True)


def test_training_is_refused(guard: Guard) -> None:
    train()
    with pytest.raises(NotMarkedError, match="trained a model"), guard.watching():
        train()


def test_a_run_is_refused(guard: Guard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    with pytest.raises(NotMarkedError, match="ran the graph"), guard.watching():
        run(tmp_path)
    assert not Home(tmp_path / "home").warehouse.exists()


def test_a_process_that_runs_the_graph_is_refused(guard: Guard, tmp_path: Path) -> None:
    with pytest.raises(NotMarkedError, match="ran the command line"), guard.watching():
        run_command_line()
    with pytest.raises(NotMarkedError, match="forked a child"), guard.watching():
        children.run_command(Home(tmp_path / "home"), tmp_path / "run.log")
    with guard.watching():
        subprocess.run([sys.executable, "-c", "pass"], check=True)


def test_a_refusal_that_is_caught_is_told_at_the_end(guard: Guard) -> None:
    told = pytest.raises(NotMarkedError, match="trained a model")
    with told, guard.watching(), contextlib.suppress(NotMarkedError):
        train()
