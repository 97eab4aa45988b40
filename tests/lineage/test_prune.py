"""Prune drops what nothing live refers to, says so, and leaves a home that still adds up."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.lineage import prune
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.warehouse.checkpoints import Checkpoint, CheckpointStore
from refine_dagster.warehouse.ledger import RoleUsage
from refine_dagster.warehouse.rows import Row, parents
from refine_dagster.warehouse.run_lock import holding_run_lock
from refine_dagster.warehouse.schema import WarehouseError
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import commit, new_warehouse
from tests.lineage.test_audit import answer

TWO_HOURS = 7200


class Project:
    """A home with seeds, a model trained on them, and the completions of proposals."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.warehouse = new_warehouse(root / "warehouse.duckdb")
        self.store = CheckpointStore(root / "checkpoints")

    def commit(
        self,
        asset: str,
        rows: list[Row],
        uses: Mapping[str, bool] | None = None,
        checkpoints: list[Checkpoint] | None = None,
        **companions: list[Row],
    ) -> None:
        sent = sum((uses or {}).values())
        usage = {"propose": RoleUsage(len(uses), len(uses) - sent, sent)} if uses else {}
        tables = {asset: rows, **companions}
        commit(self.warehouse, asset, tables, checkpoints or [], uses=uses or {}, usage=usage)

    def seeds(self, *names: str) -> list[Row]:
        rows = [seed_row(name, f"Say {name}.", output=name) for name in names]
        self.commit("seed_tasks", rows)
        return rows

    def model(self, seeds: list[Row], weights: str) -> None:
        def train(folder: Path) -> dict[str, Any]:
            (folder / "model.bin").write_text(weights, encoding="utf-8")
            return {}

        checkpoint = self.store.train_or_reuse("base_model", {"weights": weights}, train)
        trained = row(
            "base_model",
            parents(seeds, "seed_tasks", "trained_on"),
            fingerprint=weights,
            checkpoint_hash=checkpoint.content_hash,
        )
        self.commit("base_model", [trained], None, [checkpoint])

    def propose(self, *prompts: str) -> list[str]:
        """Ask for completions that may be there already, and commit that they were used."""
        known = set(self.warehouse.query("SELECT prompt FROM store.completions")["prompt"])
        sent = {answer(self.warehouse, prompt): True for prompt in prompts if prompt not in known}
        keys = self.warehouse.query(
            "SELECT key FROM store.completions WHERE list_contains(?, prompt)", [list(prompts)]
        )["key"].to_list()
        self.commit("raw_instructions", [], {key: key in sent for key in keys})
        return keys

    def folders(self) -> list[str]:
        return sorted(
            path.relative_to(self.store.root).as_posix()
            for path in self.store.root.glob("*/*")
            if path.name != "manifests"
        )

    def notes(self) -> int:
        return len(list(self.store.root.glob("*/manifests/*")))

    def plan(self) -> prune.PrunePlan:
        return prune.plan(self.warehouse, self.store.root)

    def apply(self) -> prune.PrunePlan:
        return prune.apply(self.warehouse, self.store.root)

    def audit(self, *, deep: bool = True) -> AuditReport:
        return verify(self.warehouse, self.store.root, deep)

    def count(self, relation: str) -> int:
        return int(self.warehouse.query(f"SELECT count(*) FROM {relation}").item())


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Seeds b and c are live, a was removed; so was the model trained on a."""
    project = Project(tmp_path)
    project.model(project.seeds("a", "b"), "old")
    project.propose("one", "two")
    project.model(project.seeds("b", "c"), "new")
    project.propose("two", "three")
    return project


def test_a_plan_changes_nothing(project: Project) -> None:
    before = project.warehouse.path.read_bytes()
    plan = project.plan()
    assert plan.rows == {"seed_tasks": 1, "base_model": 1}
    assert (plan.completions, plan.unvouched, plan.edges) == (1, 0, 2)
    assert plan.horizon == 4
    assert len(plan.paths) == 2
    assert plan.stored_bytes > 0
    assert plan.file_bytes > 0
    assert plan.sequence is None
    assert project.warehouse.path.read_bytes() == before
    assert len(project.folders()) == 2


def test_what_is_live_stays_and_still_adds_up(project: Project) -> None:
    live = {name: project.warehouse.read(name) for name in ("seed_tasks", "base_model")}
    done = project.apply()
    assert done.sequence == 7
    for name, rows in live.items():
        assert project.warehouse.read(name).equals(rows)
    (checkpoint_hash,) = live["base_model"]["checkpoint_hash"]
    assert project.folders() == [f"base_model/{checkpoint_hash[:16]}"]
    assert project.notes() == 1
    assert project.count("store.completions") == 2
    assert project.count("lineage.parents") == 2
    assert project.count("lineage.rows WHERE removed_in IS NOT NULL") == 0
    report = project.audit()
    assert report.findings == []
    assert "1 completions that were pruned" in report.skipped
    metrics = project.warehouse.last_record("prune")
    assert metrics is not None
    assert metrics.metrics["horizon"] == 4
    assert metrics.metrics["completions"] == 1
    assert metrics.metrics["rows"] == 2


def test_a_second_prune_has_nothing_to_do(project: Project) -> None:
    project.apply()
    assert project.plan().empty
    assert project.apply().sequence is None
    assert project.count("lineage.materializations") == 7


def test_the_past_is_told_from_the_horizon_on(project: Project) -> None:
    assert project.warehouse.read("seed_tasks", as_of=1).height == 2
    project.apply()
    for pruned in (1, 4):
        with pytest.raises(WarehouseError, match=f"as of materialization {pruned} were pruned"):
            project.warehouse.read("seed_tasks", as_of=pruned)
    assert project.warehouse.read("seed_tasks", as_of=0).is_empty()
    for kept in (5, 7):
        assert project.warehouse.read("base_model", as_of=kept).height == 1
    for wrong in (-1, 8):
        with pytest.raises(WarehouseError, match=f"there is no materialization {wrong}"):
            project.warehouse.read("seed_tasks", as_of=wrong)


def test_rows_that_live_ones_were_made_from_stay(tmp_path: Path) -> None:
    """The model is behind its seeds: it is live, and so the seed that it learnt is kept."""
    project = Project(tmp_path)
    project.model(project.seeds("a", "b"), "old")
    project.seeds("b")
    assert project.plan().empty
    project.model(project.seeds("b"), "new")
    assert project.plan().rows == {"seed_tasks": 1, "base_model": 1}
    project.apply()
    assert project.audit().whole


def test_a_row_that_came_back_loses_its_former_life(tmp_path: Path) -> None:
    project = Project(tmp_path)
    for names in (("a", "b"), ("b",), ("a", "b")):
        project.seeds(*names)
    assert project.plan().rows == {"seed_tasks": 1}
    project.apply()
    assert project.audit().whole
    assert project.warehouse.read("seed_tasks").height == 2


def test_a_pruned_completion_may_be_asked_again(project: Project) -> None:
    dropped = set(project.warehouse.query("SELECT key FROM store.completions")["key"])
    project.apply()
    dropped -= set(project.warehouse.query("SELECT key FROM store.completions")["key"])
    (key,) = dropped
    project.propose("one", "two")
    assert project.audit().whole
    with project.warehouse.connect() as connection:
        connection.execute("UPDATE store.completions SET text = 'x' WHERE key = ?", [key])
    assert project.audit().findings[0].place == f"store.completions {key}"


def test_a_prune_is_no_excuse(project: Project) -> None:
    """What the prune kept is still vouched for, and what it says is part of the chain."""
    project.apply()
    (kept, *_) = project.warehouse.query("SELECT key FROM store.completions ORDER BY key")["key"]
    with project.warehouse.connect() as connection:
        connection.execute("DELETE FROM store.completions WHERE key = ?", [kept])
    assert project.audit().findings[0].place == f"store.completions {kept}"
    with project.warehouse.connect() as connection:
        connection.execute(
            "UPDATE lineage.materializations SET metrics = replace(metrics, '\"horizon\":4', "
            "'\"horizon\":6') WHERE asset = 'prune'"
        )
    assert project.audit().findings[0].place == "materialization 7 (prune)"


def _leave(path: Path, age_s: float) -> Path:
    path.mkdir(parents=True)
    file = path / "model.bin"
    file.write_text("x", encoding="utf-8")
    then = time.time() - age_s
    for one in (file, path):
        os.utime(one, (then, then))
    return path


def test_what_killed_trainings_left(tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.model(project.seeds("a"), "new")
    kept = project.folders()
    folder = project.store.root / "base_model"
    old = [
        _leave(folder / ".partial-old", TWO_HOURS),
        _leave(folder / "0123456789abcdef", TWO_HOURS),
    ]
    young = [_leave(folder / ".partial-new", 60), _leave(folder / "fedcba9876543210", 60)]
    note = folder / "manifests" / "x.1.tmp"
    note.write_text("{", encoding="utf-8")
    os.utime(note, (0, 0))
    assert set(project.plan().paths) == {*old, note}
    project.apply()
    assert set(project.folders()) == {*kept, *(f"base_model/{path.name}" for path in young)}
    assert not note.exists()
    assert project.audit().whole


def test_files_left_by_a_kill_go_with_the_next(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def die(path: Path) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", die)
        with pytest.raises(Killed):
            project.apply()
    assert len(project.folders()) > 1
    assert [path.name for path in project.plan().paths] == [".pruned"]
    assert project.audit().whole
    again = project.apply()
    assert (again.completions, again.rows, again.sequence) == (0, {}, None)
    assert len(project.folders()) == 1
    assert project.audit().whole


def _link_out(checkpoint: Path, outside: Path) -> Path:
    link = checkpoint.parents[1] / "elsewhere"
    link.symlink_to(outside)
    return link


def _dangling_link(checkpoint: Path, outside: Path) -> Path:
    link = checkpoint / "model.old"
    link.symlink_to(outside / "gone")
    return link


def _pipe(checkpoint: Path, outside: Path) -> Path:
    os.mkfifo(checkpoint.parent / "pipe")
    return checkpoint.parent / "pipe"


@pytest.mark.parametrize("put", [_link_out, _dangling_link, _pipe])
def test_what_is_no_file_of_the_home_is_named_and_left(
    project: Project, tmp_path_factory: pytest.TempPathFactory, put: Callable[[Path, Path], Path]
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    _leave(outside / "0123456789abcdef", TWO_HOURS)
    strange = put(project.store.root / project.folders()[0], outside)
    for act in (project.plan, project.apply, project.apply, project.apply):
        with pytest.raises(RefineError, match=re.escape(str(strange))):
            act()
    assert project.count("lineage.materializations") == 6
    assert (outside / "0123456789abcdef" / "model.bin").exists()
    place = f"checkpoints/{strange.relative_to(project.store.root).as_posix()}"
    assert place in {finding.place for finding in project.audit().findings}
    strange.unlink()
    assert project.apply().sequence == 7
    assert project.audit().whole


def test_folders_that_nobody_registered_are_named(project: Project) -> None:
    root = project.store.root
    (root / "base_model" / "more").mkdir()
    report = project.audit()
    assert [finding.place for finding in report.warnings] == ["checkpoints/base_model/more"]
    (root / project.folders()[0] / "empty").mkdir()
    empty = f"checkpoints/{project.folders()[0]}/empty"
    assert empty in {finding.place for finding in project.audit().findings}


def test_files_and_record_change_together(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, move = project.folders(), Path.rename
    moves: list[Path] = []

    def fail_at_second(path: Path, target: Path) -> Path:
        moves.append(path)
        if len(moves) == 2:
            raise PermissionError(13, "Permission denied", str(path))
        return move(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_at_second)
        with pytest.raises(RefineError, match="Permission denied; nothing was dropped"):
            project.apply()
    assert len(moves) == 3
    assert project.folders() == before
    assert project.count("lineage.materializations") == 6
    assert project.apply().sequence == 7


def test_the_command(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_HOME", str(project.root))
    runner = CliRunner()
    asked = runner.invoke(app, ["prune"])
    assert asked.exit_code == 0
    assert "1 seed_tasks, 1 base_model" in asked.output
    assert "oldest state that can be shown afterwards: as of materialization 5" in asked.output
    assert asked.output.splitlines()[-1] == "nothing was dropped; do it with --yes"
    assert project.count("lineage.materializations") == 6
    with holding_run_lock(project.root, "a-run"):
        refused = runner.invoke(app, ["prune", "--yes"])
    assert refused.exit_code != 0
    assert "a-run" in str(refused.exception)
    assert len(project.folders()) == 2
    done = runner.invoke(app, ["prune", "--yes"])
    assert done.output.splitlines()[-1] == "dropped, and recorded as materialization 7"
    assert len(project.folders()) == 1
    assert runner.invoke(app, ["prune"]).output == "there is nothing to drop\n"
    assert runner.invoke(app, ["audit", "verify", "--deep"]).exit_code == 0


def test_empty_home(tmp_path: Path) -> None:
    project = Project(tmp_path)
    assert project.plan().empty
    assert isinstance(project.warehouse.query("SELECT 1"), pl.DataFrame)
