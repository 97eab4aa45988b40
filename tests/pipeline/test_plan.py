"""`refine-dagster plan` on a fresh folder, and on a home in which the graph was materialised."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.home import Home
from refine_dagster.planning import rates
from refine_dagster.planning.plan import SECONDS_UNCHANGED
from tests.pipeline.children import TINY


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SECONDS", 0.05)
    monkeypatch.delenv("REFINE_PROFILE", raising=False)


def call(home: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.setenv("REFINE_HOME", str(home))
    result = CliRunner().invoke(app, ["plan", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.stdout


def files_of(folder: Path) -> dict[str, str]:
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in folder.rglob("*")
        if file.is_file()
    }


@pytest.mark.slow
def test_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = json.loads(call(tmp_path / "home", monkeypatch, "--format", "json"))
    assert os.listdir(tmp_path) == []
    stages: list[dict[str, Any]] = answer["stages"]
    assert [one["stage"] for one in stages] == [
        "base model",
        "judge",
        "instructor",
        "proposals",
        "evolution",
        "instances",
        "policy",
        "dataset",
        "fine-tuned model",
        "baselines",
        "evaluation",
        "privacy audit",
    ]
    assert all(one["seconds"] > 0 and one["memory"] > 0 for one in stages)
    asking = {one["stage"] for one in stages if one["requests"] > 0}
    assert asking == {
        "instructor", "proposals", "evolution", "instances", "policy", "dataset", "evaluation",
    }  # fmt: skip
    assert answer["seconds"] == pytest.approx(
        answer["rest"] + sum(one["seconds"] for one in stages)
    )
    assert {one["state"] for one in answer["assets"]} == {"to make"}
    assert answer["stored"] == []


def test_a_model_that_is_not_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    shown = call(tmp_path / "home", monkeypatch, "--set", "base_model.id=nobody/no-such-model")
    assert "nobody/no-such-model is not on this machine" in shown
    assert not (tmp_path / "home").exists()
    assert max(map(len, shown.split("Read, written")[0].splitlines())) <= 80


def test_after_a_run(tiny_home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = str(tiny_home.root.parent / "seeds.jsonl")
    before = files_of(tiny_home.root)
    given = "--profile", TINY, "--seeds", seeds, "--format", "json"
    answer = json.loads(call(tiny_home.root, monkeypatch, *given))
    assert {one["state"] for one in answer["assets"]} == {"up to date"}
    stored = {one["role"]: one for one in answer["stored"]}
    assert stored["propose"]["completions"] == stored["propose"]["of_base_model"] > 0
    assert stored["instance"]["completions"] > stored["instance"]["of_base_model"] > 0
    assert answer["model"] == "the home's base model"
    assert "accepted" in answer["behaviour"]["seen"]
    assert answer["seconds"] == SECONDS_UNCHANGED

    changed = json.loads(
        call(tiny_home.root, monkeypatch, *given, "--set", "reinforcement.steps=4")
    )
    states = {one["asset"]: (one["state"], one["because"]) for one in changed["assets"]}
    assert states["raw_instructions"] == ("up to date", "")
    assert states["rl_policy_checkpoint"] == ("to make", "config reinforcement.steps")
    assert states["instruction_dataset"] == ("may change", "after rl_policy_checkpoint")
    made = {one["stage"]: one for one in changed["stages"] if one["state"] != "up to date"}
    assert list(made)[:2] == ["policy", "dataset"]
    assert "baselines" not in made
    together = changed["rest"] + sum(one["seconds"] for one in made.values())
    assert changed["seconds"] == pytest.approx(together)
    assert files_of(tiny_home.root) == before
