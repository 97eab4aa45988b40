"""A package that brings one of each: `docs/extend.md` shows it, and the pipeline runs with it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.comparison.arms import parse_arms
from refine_dagster.comparison.study import CellFolder, CellKey, CellResult
from refine_dagster.config.models import GeneratorConfig
from refine_dagster.config.profile import Profile, load_profile
from refine_dagster.config.section import plug_ins_of
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession, open_generator
from refine_dagster.generation.request import Request, Sampling, Scoring, label_scores
from refine_dagster.home import Home
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.reward import with_parts
from refine_dagster.registry import ALGORITHMS, BACKENDS, OPERATIONS, REWARD_PARTS
from refine_dagster.teams_rl.chain import Seed
from refine_dagster.teams_rl.evolution import evolve, model_evolver
from refine_dagster.teams_rl.operations import NAMES, operation_named
from refine_dagster.teams_rl.policies import RoundRobinPolicy
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.losses import losses_of
from tests.pipeline.children import run_command
from tests.pipeline.project import Project, packaged_seeds

PACKAGE = Path(__file__).parent / "refine_example"
PAGE = Path(__file__).parents[2] / "docs" / "extend.md"
SETTINGS = {
    "generator.backend": "scripted",
    "reward.parts": {"brevity": 0.5},
    "reinforcement.algorithm": "best_of_group",
    "teams_rl.operations": [*NAMES, "shorten"],
}
VERSION = "refine-example 1.0"


def test_the_page_shows_every_file_of_the_package() -> None:
    shown = dict(
        re.findall(r"^`([\w/.]+)`:\n\n```\w+\n(.*?)^```$", PAGE.read_text("utf-8"), re.M | re.S)
    )
    files = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".toml")]
    texts = {str(path.relative_to(PACKAGE)): path.read_text("utf-8") for path in files}
    assert shown == {name: text for name, text in texts.items() if text}


@pytest.fixture
def on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package importable, with the metadata that an installation would write."""
    project = tomllib.loads((PACKAGE / "pyproject.toml").read_text("utf-8"))["project"]
    info = tmp_path / "refine_example-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", "utf-8"
    )
    points = [
        line
        for group, named in project["entry-points"].items()
        for line in (f"[{group}]", *(f"{name} = {place}" for name, place in named.items()))
    ]
    (info / "entry_points.txt").write_text("\n".join(points), "utf-8")
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.fixture
def profile(on_path: None) -> Profile:
    return load_profile("offline", SETTINGS, environment={})


@pytest.fixture
def session(on_path: None, tmp_path: Path, device: Device) -> Iterator[GeneratorSession]:
    store = CompletionsStore(tmp_path / "completions.duckdb")
    ref, config = ModelRef("no folder is read", "f" * 64), GeneratorConfig(backend="scripted")
    with open_generator(ref, device, store, config) as opened:
        yield opened


def test_names_are_known_and_listed(profile: Profile) -> None:
    assert "scripted" in BACKENDS.names()
    assert plug_ins_of(
        profile.generator, profile.reward, profile.reinforcement, profile.teams_rl
    ) == {
        "plug_ins": {
            "backend scripted": VERSION,
            "reward part brevity": VERSION,
            "algorithm best_of_group": VERSION,
            "operation shorten": VERSION,
        }
    }
    assert callable(ALGORITHMS.get("best_of_group"))
    assert REWARD_PARTS.get("brevity")(["p"], ["two words"]) == [1 / 3]
    assert OPERATIONS.entry("shorten").package == "refine-example"


def test_the_backend_answers_through_the_store(session: GeneratorSession) -> None:
    requests = [
        Request("propose", "Task 1: Name a fruit.\nTask 2:", Sampling(16), 1),
        Request("instance", "Instruction: Name a fruit.\nInput:", Sampling(16), 2),
        Request("review", "Do they differ?", Scoring((" yes", " no")), 0),
    ]
    first = session.complete(requests)
    assert "\nOutput:" in first[1].text
    assert len(label_scores(first[2])) == 2
    again = session.complete(requests)
    assert [done.text for done in again] == [done.text for done in first]
    assert all(done.reused for done in again)


def test_the_reward_part_scores_beside_the_judge(on_path: None) -> None:
    judge = with_parts(FakeJudge(lambda _: scores_of()), ["brevity"])
    (scores,) = judge.score([Example("Name a pet.", "", "a cat")])
    assert scores == {**scores_of(), "brevity": round(1 / 3, 6)}


def test_the_operation_is_chosen_and_asked_for(session: GeneratorSession) -> None:
    operations = ("constraints", "shorten")
    evolver = model_evolver(session.complete, Profile(name="p").teams_rl, "s")
    steps = evolve(
        [Seed("a", "Describe a boat in one sentence.")], RoundRobinPolicy(operations), evolver
    )
    assert {step.operation for step in steps} == set(operations)
    line = operation_named("shorten").instruction
    for step in steps:
        asked = step.execution.request
        assert asked
        assert (line in asked.prompt) == (step.operation == "shorten")


def test_a_new_version_of_an_algorithm_makes_the_cells_of_its_arms_again(
    profile: Profile, tmp_path: Path
) -> None:
    arms = parse_arms("best_of_group, grpo", profile)
    keys = [CellKey(arm, random_seed=1, size=8) for arm in arms]
    cells = CellFolder(tmp_path / "cells")
    for key in keys:
        cells.write(key, CellResult(key.arm.name, 1, 8, (), None, None, {}, losses_of(), 0.0))
    assert [cells.has(key) for key in keys] == [True, True]
    metadata = tmp_path / "refine_example-1.0.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text("utf-8").replace("1.0", "1.1"), "utf-8")
    assert [cells.has(key) for key in keys] == [False, True]


@pytest.mark.slow
def test_the_pipeline_runs_with_the_installed_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(site), str(PACKAGE)]
    subprocess.run(command, check=True, timeout=120)
    assert {path.name for path in site.iterdir()} >= {"refine_example"}
    home = Home(tmp_path / "home")
    seeds = Project(tmp_path / "seeds.jsonl", packaged_seeds(40)).write()
    settings = [
        f"{field}={value if isinstance(value, str) else json.dumps(value)}"
        for field, value in SETTINGS.items()
    ]
    child = run_command(
        home,
        tmp_path / "run.log",
        *("--seeds", seeds["seeds.path"]),
        *(argument for setting in settings for argument in ("--set", setting)),
        prepare=_see,
        given=(str(site),),
    )
    assert child.end() == 0, child.log.read_text("utf-8")
    assert child.sent_keys() == []  # the transformers backend decoded nothing

    warehouse = Warehouse(home.warehouse)
    policy = warehouse.read("rl_policy_checkpoint")
    assert policy["algorithm"].to_list() == ["best_of_group"]
    assert warehouse.read("rl_policy_checkpoint_steps").height == 3
    assert "shorten" in set(warehouse.read("evolved_instructions")["operation"])
    for table in ("reward_scored_instructions", "rl_policy_checkpoint_steps"):
        parts = warehouse.query(f"SELECT DISTINCT unnest(map_keys(parts)) FROM main.{table}")
        assert set(parts.to_series()) == {*scores_of(), "brevity"}
    configs = warehouse.query(
        "SELECT asset, arg_max(config, sequence) FROM lineage.materializations "
        "JOIN lineage.configs USING (config_hash) GROUP BY asset"
    )
    named = {asset: json.loads(config).get("plug_ins") for asset, config in configs.rows()}
    assert named["raw_instructions"] == {"backend scripted": VERSION}
    assert named["evolved_instructions"] == {
        "backend scripted": VERSION,
        "operation shorten": VERSION,
    }
    assert named["rl_policy_checkpoint"] == {
        "backend scripted": VERSION,
        "reward part brevity": VERSION,
        "algorithm best_of_group": VERSION,
    }
    assert named["seed_tasks"] is None


def _see(folder: str) -> None:
    """Runs in the child: the folder is where packages are installed."""
    sys.path.append(folder)
