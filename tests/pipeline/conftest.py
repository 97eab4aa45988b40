"""Real runs that several tests look at: each made once, whatever the number of test processes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import FIRST_ASSETS, QUICK, run_command
from tests.pipeline.home_content import content
from tests.pipeline.seed_edits import Project, packaged_seeds

# Seeds of the tiny home: enough for every table to have rows.
TINY_SEEDS = 60
SMALL = str(Path(__file__).parent / "small.yaml")


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """This process's copy of a folder that the first process to ask for it makes."""
    own = factory.mktemp(name) / "copy"
    # With pytest-xdist every worker's folder lies in the one of the whole session.
    shared = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent
    folder = shared / f"shared_{name}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            unfinished = folder.with_suffix(".unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            make(unfinished)
            unfinished.rename(folder)
    shutil.copytree(folder, own)
    return own


@pytest.fixture(scope="session")
def built_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home in which the whole graph was materialised. Not to be changed by tests."""

    def make(folder: Path) -> None:
        home = Home(folder / "home")
        if ready := os.environ.get("TESTS_BUILT_HOME"):
            shutil.copytree(ready, home.root)
            return
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("REFINE_PROFILE", raising=False)
            patch.setenv("DAGSTER_HOME", str(home.dagster))
            run_pipeline(home, SMALL)

    home = Home(made_once(tmp_path_factory, "built", make) / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REFINE_PROFILE", raising=False)
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        yield home


@pytest.fixture
def built(built_home: Home) -> Warehouse:
    """The warehouse of the built home, for reading."""
    return Warehouse(built_home.warehouse)


@pytest.fixture
def copied_home(built_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A copy of the built home that a test may change, Dagster's files included."""
    home = Home(tmp_path / "home")
    shutil.copytree(built_home.root, home.root)
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return home


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which the whole graph was materialised in the tiny profile. Not to be changed."""

    def make(folder: Path) -> None:
        project = Project(folder / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
        child = run_command(
            Home(folder / "home"), folder / "run.log", "--seeds", project.write()["seeds.path"]
        )
        assert child.end() == 0, child.log.read_text(encoding="utf-8")

    return Home(made_once(tmp_path_factory, "tiny", make) / "home")


@pytest.fixture(scope="session")
def first_assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of the first assets, made quickly, with room, alone and without a kill."""
    folder = tmp_path_factory.mktemp("first_assets")
    home = Home(folder / "home")
    child = run_command(home, folder / "run.log", *FIRST_ASSETS, environment=QUICK)
    assert child.end() == 0, child.log.read_text(encoding="utf-8")
    return content(home)
