"""One real run of the small profile, shared by the tests that look at what it made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.pipeline import run_pipeline
from tests.pipeline.children import run_command
from tests.pipeline.seed_edits import Project, packaged_seeds

# Seeds of the tiny home: enough for every table to have rows.
TINY_SEEDS = 60
SMALL = str(Path(__file__).parent / "small.yaml")


@pytest.fixture(scope="session")
def built_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    """A home in which the whole graph was materialised. Not to be changed by tests."""
    home = Home(tmp_path_factory.mktemp("built") / "home")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("REFINE_PROFILE", raising=False)
        patch.setenv("DAGSTER_HOME", str(home.dagster))
        if ready := os.environ.get("TESTS_BUILT_HOME"):
            shutil.copytree(ready, home.root)
        else:
            run_pipeline(home, SMALL)
        yield home


@pytest.fixture
def built(built_home: Home) -> Warehouse:
    """The warehouse of the built home, for reading."""
    return Warehouse(built_home.warehouse)


@pytest.fixture(scope="session")
def built_base_model(built_home: Home) -> str:
    """The folder of the built home's base model, to be named as a model that is given."""
    content_hash = Warehouse(built_home.warehouse).read("base_model")["checkpoint_hash"].item()
    return str(built_home.checkpoints / "base_model" / content_hash[:16])


@pytest.fixture(scope="session")
def tiny_home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home in which the whole graph was materialised in the tiny profile. Not to be changed."""
    folder = tmp_path_factory.mktemp("tiny")
    project = Project(folder / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
    seeds = project.write()["seeds.path"]
    home = Home(folder / "home")
    child = run_command(home, folder / "run.log", "--seeds", seeds)
    assert child.end() == 0, child.log.read_text(encoding="utf-8")
    return home
