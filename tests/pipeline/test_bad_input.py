"""What a user can do wrong: one clear error or a clean stop each, and nothing half-written."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.config.section import ProfileError
from refine_dagster.errors import BudgetSpentError, RefineError
from refine_dagster.home import Home
from refine_dagster.models.files import ModelError
from refine_dagster.run import run_pipeline
from refine_dagster.seeds.problems import SeedFileError
from refine_dagster.warehouse.schema import WarehouseLockedError
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL
from tests.pipeline.home_content import base_model_folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("REFINE_HOME", str(home.root))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return home


def ledger_rows(home: Home) -> int:
    warehouse = Warehouse(home.warehouse)
    return int(warehouse.query("SELECT count(*) FROM lineage.materializations").item())


def test_unknown_profile(home: Home) -> None:
    with pytest.raises(ProfileError, match="there is no profile 'nonsense'"):
        run_pipeline(home, "nonsense")
    assert not home.root.exists()


@pytest.mark.slow
@pytest.mark.parametrize("content", [b"", b"\n\n", b'{"id": "a"}\n', b"\xff\xfe\x00"])
def test_unusable_seeds(home: Home, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seeds.jsonl"
    path.write_bytes(content)
    with pytest.raises(SeedFileError, match=r"seeds\.jsonl"):
        run_pipeline(home, SMALL, {"seeds.path": str(path)}, "seed_tasks")
    assert ledger_rows(home) == 0


@pytest.mark.slow
def test_a_seed_file_that_is_not_there(home: Home) -> None:
    with pytest.raises(SeedFileError, match=r"absent\.jsonl"):
        run_pipeline(home, SMALL, {"seeds.path": "absent.jsonl"}, "seed_tasks")


@pytest.mark.slow
def test_a_model_path_without_weights(home: Home, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ModelError, match="weights"):
        run_pipeline(
            home, SMALL, {"base_model.id": str(tmp_path / "model")}, "seed_tasks or base_model"
        )
    assert ledger_rows(home) == 1  # seed_tasks stands, base_model left nothing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"evaluation.tasks": "no_tasks"}, "no_tasks: 1 problem in the task files"),
        ({"judge.kind": "published", "judge.unieval": "./no_model"}, "no such folder"),
    ],
)
def test_files_are_read_before_anything_is_trained(
    home: Home, settings: dict[str, str], said: str
) -> None:
    """Only those of what the run makes: a part of the graph does not need the others' files."""
    with pytest.raises(RefineError, match=said):
        run_pipeline(home, SMALL, settings)
    assert ledger_rows(home) == 1
    absent = {**settings, "base_model.id": "./no_base"}
    with pytest.raises(RefineError, match=r"no_base: no such folder"):
        run_pipeline(home, SMALL, absent, "seed_tasks or base_model")


def test_a_selection_that_selects_nothing(home: Home) -> None:
    with pytest.raises(RefineError, match="select"):
        run_pipeline(home, SMALL, select="no_such_asset")


@pytest.mark.slow
def test_upstream_never_materialised(home: Home) -> None:
    with pytest.raises(RefineError, match="needs base_model, seed_tasks, never materialised"):
        run_pipeline(home, SMALL, select="raw_instructions")


@pytest.mark.slow
def test_a_locked_warehouse(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    Warehouse(home.warehouse).query("SELECT 1")
    held = "import duckdb, sys, time; c = duckdb.connect(sys.argv[1]); print(1, flush=True); " \
        "time.sleep(60)"  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", held, str(home.warehouse)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        monkeypatch.setattr("resources.warehouse.LOCK_TIMEOUT_S", 0.5)
        with pytest.raises(WarehouseLockedError, match=str(process.pid)):
            run_pipeline(home, SMALL, select="seed_tasks")
        process.kill()
    run_pipeline(home, SMALL, select="seed_tasks")
    assert ledger_rows(home) == 1


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(RefineError, match="cannot write"):
        run_pipeline(Home(tmp_path / "file" / "home"), SMALL, select="seed_tasks")


def test_a_spent_budget_stops_cleanly_and_the_rest_goes_on(built_home: Home, home: Home) -> None:
    model = base_model_folder(built_home)
    overrides = {"base_model.id": model, "generator.max_requests": 20, "self_instruct.target": 10}
    wanted = "seed_tasks or base_model or raw_instructions"
    with pytest.raises(BudgetSpentError, match="max_requests = 20"):
        run_pipeline(home, SMALL, {**overrides, "self_instruct.target": 1000}, wanted)
    kept = Warehouse(home.warehouse).query("SELECT count(*) FROM store.completions").item()
    assert kept == 20
    assert Warehouse(home.warehouse).read("raw_instructions").is_empty()
    overrides.pop("generator.max_requests")
    run_pipeline(home, SMALL, overrides, wanted)
    reused = Warehouse(home.warehouse).query(
        "SELECT requests_reused FROM lineage.materializations WHERE asset = 'raw_instructions'"
    )
    assert reused.item() >= 12


def test_ctrl_c_stops_cleanly(built_home: Home, home: Home) -> None:
    environment = {
        **os.environ,
        "REFINE_BASE_MODEL": base_model_folder(built_home),
        "REFINE_SELF_INSTRUCT__TARGET": "100000",
        "REFINE_SELF_INSTRUCT__MAX_ROUNDS": "100000",
    }
    command = [sys.executable, "-m", "refine_dagster.cli", "run", "--profile", SMALL]
    command += ["--select", "seed_tasks or base_model or raw_instructions"]
    with subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            deadline = time.monotonic() + 400
            asked = 0
            while asked < 24:
                assert time.monotonic() < deadline
                assert process.poll() is None
                time.sleep(1.0)
                asked = _completions(home)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=300)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "run again to continue" in stderr
    assert "Traceback" not in stderr
    warehouse = Warehouse(home.warehouse)
    assert warehouse.read("raw_instructions").is_empty()
    assert _completions(home) >= asked


@pytest.mark.slow
def test_the_command_line_tells_errors_without_a_traceback(home: Home) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "refine_dagster.cli", "run", "--profile", "nonsense"],
        capture_output=True,
        text=True,
        env={**os.environ, "REFINE_HOME": str(home.root)},
        check=False,
    )
    assert result.returncode == 1
    assert "there is no profile 'nonsense'" in result.stderr
    assert "Fix:" in result.stderr
    assert "Traceback" not in result.stderr


def test_commands_before_any_run(home: Home) -> None:
    for command in (["status"], ["show", "seed_tasks"], ["export", "--to", "x.json"]):
        result = CliRunner().invoke(app, command)
        assert isinstance(result.exception, RefineError)
        assert "no warehouse here yet" in str(result.exception)


def _completions(home: Home) -> int:
    try:
        warehouse = Warehouse(home.warehouse, lock_timeout_s=10)
        return int(warehouse.query("SELECT count(*) FROM store.completions").item())
    except WarehouseLockedError:
        return 0
