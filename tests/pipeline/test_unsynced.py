"""Dagster's own view: it marks as unsynced what a run would do something for, and nothing else."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import (
    CachingStaleStatusResolver,
    StaleCauseCategory,
    StaleStatus,
)
from dagster._core.loader import LoadingContextForTest

from assets.evaluation import evaluation_report
from assets.facts import UNREADABLE
from assets.seeds import seed_tasks
from refine_dagster.config.profile import load_profile
from refine_dagster.definitions import build_definitions
from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.sql_models.reading import read_models
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL

ConfigSection = Mapping[str, Any]
READ_SEEDS = {
    "base_model",
    "feedback_judge",
    "instructor_policy",
    "evolved_instructions",
    "raw_instructions",
    "instruction_decisions",
    "policy_start",
    "reward_scored_instructions",
    "rl_policy_checkpoint",
    "instruction_dataset",
    "baseline_model",
    "privacy_report",
    "run_report",
    "stg_seed_tasks",
    "stg_materializations",
}


class Project:
    """A copy of the built home, its seeds in a file of its own, and Dagster's view of it."""

    def __init__(self, home: Home, seed_file: Path) -> None:
        self.home = home
        self.seed_file = seed_file
        text = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")
        self.seeds = [json.loads(line) for line in text.splitlines()]
        self.write()

    def write(self) -> None:
        lines = (json.dumps(seed) + "\n" for seed in self.seeds)
        self.seed_file.write_text("".join(lines), encoding="utf-8")

    def config(self, config: ConfigSection | None = None) -> dict[str, Any]:
        return {"seeds.path": str(self.seed_file), **(config or {})}

    def run(self, select: str, config: ConfigSection | None = None) -> None:
        run_pipeline(self.home, SMALL, self.config(config), select)

    def unsynced(self, config: ConfigSection | None = None) -> dict[str, set[StaleCauseCategory]]:
        """What the UI marks after loading the code location: asset -> why."""
        definitions = build_definitions(SMALL, self.config(config), self.home)
        graph = definitions.resolve_asset_graph()
        with dg.DagsterInstance.get() as instance:
            view = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
            statuses = {key: view.get_status(key) for key in graph.materializable_asset_keys}
            assert StaleStatus.MISSING not in statuses.values()
            return {
                key.to_user_string(): {cause.category for cause in view.get_stale_causes(key)}
                for key, status in statuses.items()
                if status == StaleStatus.STALE
            }


@pytest.fixture
def project(built_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    home = Home(tmp_path / "home")
    shutil.copytree(built_home.root, home.root)
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return Project(home, tmp_path / "seeds.jsonl")


def test_after_a_run_nothing_is_unsynced(project: Project) -> None:
    assert project.unsynced() == {}


def test_a_cosmetic_edit_is_none(project: Project) -> None:
    project.seeds[3]["instruction"] = "  " + project.seeds[3]["instruction"].replace(" ", "  ")
    project.seeds.reverse()
    project.write()
    assert project.unsynced() == {}
    project.run("seed_tasks")
    assert project.unsynced() == {}
    last = Warehouse(project.home.warehouse).query(
        "SELECT rows_added, rows_removed FROM lineage.materializations ORDER BY sequence DESC"
    )
    assert last.row(0) == (0, 0)


def test_an_edit_is_seen_before_any_run_and_then_goes_down(project: Project) -> None:
    """First the seeds, by their code version; once they are made, what reads them."""
    instruction = project.seeds[3]["instruction"]
    project.seeds[3]["instruction"] += " Be brief."
    project.write()
    assert project.unsynced() == {"seed_tasks": {StaleCauseCategory.CODE}}
    project.run("seed_tasks")
    assert project.unsynced() == {key: {StaleCauseCategory.DATA} for key in READ_SEEDS}
    project.seeds[3]["instruction"] = instruction
    project.write()
    project.run("seed_tasks")
    assert project.unsynced() == {}


def test_a_bad_file_is_seen_and_breaks_nothing(project: Project) -> None:
    project.seed_file.write_text('{"instruction": \n', encoding="utf-8")
    assert project.unsynced() == {"seed_tasks": {StaleCauseCategory.CODE}}
    for path in (str(project.seed_file), str(project.home.root), "/nowhere.jsonl"):
        profile = load_profile(SMALL, {"seeds.path": path, "evaluation.tasks": path})
        for asset in (seed_tasks, evaluation_report):
            assert asset.facts.code_version(profile).endswith(f".{UNREADABLE}")


def test_a_knob_marks_what_reads_it(project: Project) -> None:
    knob = {"evaluation.bootstrap_samples": 300}
    assert project.unsynced(knob) == {"evaluation_report": {StaleCauseCategory.CODE}}
    knob = {"privacy.bootstrap_samples": 300}
    assert project.unsynced(knob) == {"privacy_report": {StaleCauseCategory.CODE}}


def test_held_out_tasks_count_by_content(project: Project, tmp_path: Path) -> None:
    folder = tmp_path / "tasks"
    folder.mkdir()
    for entry in (files("refine_dagster") / "evaluation" / "held_out").iterdir():
        (folder / entry.name).write_text(entry.read_text(encoding="utf-8"), encoding="utf-8")
    profile = load_profile(SMALL, {"evaluation.tasks": str(folder)})
    before = evaluation_report.facts.code_version(profile)
    path = sorted(folder.iterdir())[0]
    task = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(task, indent=8), encoding="utf-8")
    assert evaluation_report.facts.code_version(profile) == before
    task["Instances"][0]["output"] = ["another answer"]
    path.write_text(json.dumps(task), encoding="utf-8")
    assert evaluation_report.facts.code_version(profile) != before


def test_the_same_content_by_other_config_goes_no_further(project: Project) -> None:
    """A bound that is not reached changes no row: what is downstream stays in sync."""
    knob = {"self_instruct.max_rounds": 41}
    stale = {"raw_instructions", "instruction_decisions"}
    assert project.unsynced(knob) == {key: {StaleCauseCategory.CODE} for key in stale}
    versions = {asset: Warehouse(project.home.warehouse).data_version(asset) for asset in stale}
    project.run("raw_instructions or instruction_decisions", knob)
    warehouse = Warehouse(project.home.warehouse)
    assert {asset: warehouse.data_version(asset) for asset in stale} == versions
    assert project.unsynced(knob) == {}


def test_a_run_with_config_of_its_own_is_marked(project: Project) -> None:
    """Config of the launchpad is that of one run; what it made is not what the code would make."""
    project.seeds[3]["instruction"] += " Be brief."
    edited = project.seed_file.with_name("edited.jsonl")
    project.seed_file, kept = edited, project.seed_file
    project.write()
    project.seed_file = kept
    job = build_definitions(SMALL, project.config(), project.home).resolve_job_def("everything")
    launchpad = {"name": SMALL, "overrides": {"seeds.path": str(edited)}}
    with dg.DagsterInstance.get() as instance:
        result = job.execute_in_process(
            {"resources": {"profile": {"config": launchpad}}},
            instance,
            asset_selection=[dg.AssetKey("seed_tasks")],
        )
    assert result.success
    assert project.unsynced()["seed_tasks"] == {StaleCauseCategory.CODE}


def test_the_code_version_of_a_sql_model_is_its_query(project: Project) -> None:
    specs = build_definitions(SMALL, home=project.home).resolve_all_asset_specs()
    found = {spec.key.to_user_string(): spec.code_version for spec in specs}
    models = read_models()
    assert len(models) > 10
    for model in models:
        assert found[model.name] == model.version
