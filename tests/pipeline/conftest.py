"""Real runs that several tests look at: each made once, whatever the number of test processes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import FIRST_ASSETS, QUICK, run_command
from tests.pipeline.home_content import content
from tests.pipeline.project import Project, packaged_seeds

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


@dataclass(frozen=True)
class TinyRun:
    """The whole graph, materialised in the tiny profile by a child that nobody killed.

    Attributes:
        home: not to be changed by tests.
        seconds: processor seconds of each stage, in order; the first begins with the process.
    """

    home: Home
    seconds: dict[str, float]


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> TinyRun:
    """A run of the tiny profile, from nothing."""

    def make(folder: Path) -> None:
        project = Project(folder / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
        child = run_command(Home(folder / "home"), folder / "run.log", *project.options())
        seconds = child.seconds_of_stages()
        assert child.end() == 0, child.log.read_text(encoding="utf-8")
        (folder / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")

    folder = made_once(tmp_path_factory, "tiny", make)
    seconds = json.loads((folder / "seconds.json").read_text(encoding="utf-8"))
    return TinyRun(Home(folder / "home"), seconds)


@pytest.fixture(scope="session")
def tiny_home(tiny_run: TinyRun) -> Home:
    """A home in which the whole graph was materialised in the tiny profile. Not to be changed."""
    return tiny_run.home


@dataclass(frozen=True)
class Edited:
    """A copy of the tiny home after edits of the seeds, a change of the config, and a run.

    Attributes:
        removed: the seed that was removed, (seed id, row id): of all, the one most shown.
        options: of the run.
    """

    home: Home
    removed: tuple[str, str]
    options: list[str]


@pytest.fixture(scope="session")
def edited(tiny_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Edited:
    """One seed removed, one edited, one added, their order another, and another novelty bound."""
    most_shown = (
        "SELECT s.seed_id, s.row_id FROM seed_tasks AS s JOIN lineage.edges AS e "
        "ON e.parent_id = s.row_id WHERE e.table_name = 'raw_instructions' "
        "GROUP BY ALL ORDER BY count(*) DESC, s.seed_id LIMIT 1"
    )
    removed = Warehouse(tiny_home.warehouse).query(most_shown).row(0)

    def project_in(folder: Path) -> Project:
        seeds = [seed for seed in packaged_seeds(TINY_SEEDS) if seed["id"] != removed[0]]
        seeds[5] = {**seeds[5], "instruction": "Name three birds that live near the sea."}
        added = {**seeds[8], "id": "added", "instruction": "Give a short tip for a long journey."}
        overrides = {"self_instruct.novelty_threshold": 0.6}
        return Project(folder / "seeds.jsonl", [added, *reversed(seeds)], overrides)

    def make(folder: Path) -> None:
        home = Home(folder / "home")
        shutil.copytree(tiny_home.root, home.root)
        child = run_command(home, folder / "run.log", *project_in(folder).options())
        assert child.end() == 0, child.log.read_text(encoding="utf-8")

    folder = made_once(tmp_path_factory, "edited", make)
    return Edited(Home(folder / "home"), removed, project_in(folder).options())


@pytest.fixture(scope="session")
def first_assets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Content of the first assets, made quickly, with room, alone and without a kill."""
    folder = tmp_path_factory.mktemp("first_assets")
    home = Home(folder / "home")
    child = run_command(home, folder / "run.log", *FIRST_ASSETS, environment=QUICK)
    assert child.end() == 0, child.log.read_text(encoding="utf-8")
    return content(home)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of a test module."""
    return tmp_path_factory.mktemp("pipeline")


@pytest.fixture(scope="module")
def seeds(folder: Path) -> str:
    """The seed file that the tiny home was made from."""
    project = Project(folder / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
    return str(project.write()["seeds.path"])
