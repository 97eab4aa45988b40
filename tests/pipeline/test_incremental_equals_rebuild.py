"""Promise 1: after any history of edits, the live tables are those of a build from nothing."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from tests.pipeline.children import TINY, TRAINED_INSTRUCTOR, run_command
from tests.pipeline.conftest import TINY_SEEDS
from tests.pipeline.home_content import base_model_folder, content
from tests.pipeline.seed_edits import Change, Project, changes, packaged_seeds

STAGE_1 = "+filtered_instructions"
SEEDS = 40
PATIENT = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(
    max_examples=2,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=PATIENT,
)
@given(history=st.lists(changes, min_size=2, max_size=3))
def test_incremental_equals_rebuild_of_stage_1(
    tiny_home: Home, monkeypatch: pytest.MonkeyPatch, history: list[Change]
) -> None:
    """Random histories, compared after each step with a build that has no completions to reuse."""
    base_model = base_model_folder(tiny_home)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project = Project(root / "seeds.jsonl", packaged_seeds(SEEDS))
        live = Home(root / "live")
        _run(live, project, base_model, monkeypatch)
        for number, change in enumerate(history):
            project.apply(change)
            _run(live, project, base_model, monkeypatch)
            anew = Home(root / f"anew{number}")
            _run(anew, project, base_model, monkeypatch)
            assert live_content(live) == live_content(anew)


@settings(
    max_examples=1,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=PATIENT,
)
@given(history=st.lists(changes, min_size=2, max_size=2, unique_by=lambda one: one.kind))
def test_incremental_equals_rebuild(tiny_home: Home, history: list[Change]) -> None:
    """The whole graph: models trained anew where they must be, and the same from nothing."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        project = Project(root / "seeds.jsonl", packaged_seeds(TINY_SEEDS))
        live = Home(root / "live")
        shutil.copytree(tiny_home.root, live.root)
        for number, change in enumerate(history):
            project.apply(change)
            anew = Home(root / f"anew{number}")
            for home in (live, anew):
                sets = [f"{name}={value}" for name, value in project.write().items()]
                arguments = [word for one in sets for word in ("--set", one)]
                log = root / f"{home.root.name}.log"
                child = run_command(home, log, *arguments, environment=TRAINED_INSTRUCTOR)
                assert child.end() == 0, child.log.read_text(encoding="utf-8")
            assert live_content(live) == live_content(anew)


def live_content(home: Home) -> dict[str, Any]:
    """All live tables, ids and parents included, and the version of every asset."""
    found = content(home)
    return {name: found[name] for name in ("tables", "versions")}


def _run(home: Home, project: Project, base_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    overrides = {"base_model.id": base_model, **project.write()}
    run_pipeline(home, TINY, overrides, STAGE_1)
