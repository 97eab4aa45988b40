"""The whole graph with vLLM as its generator, from seeds to the evaluation report."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.generation.model_text import backend_fingerprint
from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.trace import trace
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import run_command
from tests.pipeline.project import Project, packaged_seeds

# An engine is started for each session with a model, and models are trained in between.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
VLLM = ("--set", "generator.backend=vllm")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return Project(tmp_path_factory.mktemp("seeds") / "seeds.jsonl", packaged_seeds(60))


@pytest.fixture(scope="module")
def home(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Home:
    folder = tmp_path_factory.mktemp("vllm_home")
    home = Home(folder / "home")
    run(home, folder / "run.log", project, *VLLM)
    return home


def run(home: Home, log: Path, project: Project, *arguments: str) -> list[str]:
    """Run the graph and return what it printed; an engine lives in the run's own process."""
    child = run_command(
        home,
        log,
        "--seeds",
        project.write()["seeds.path"],
        *arguments,
        environment={"VLLM_ENABLE_V1_MULTIPROCESSING": "0"},
    )
    assert child.end(1500) == 0, log.read_text(encoding="utf-8")
    return child.printed()


def test_every_table_that_a_model_fills_has_rows(home: Home) -> None:
    warehouse = Warehouse(home.warehouse)
    for table in (
        "raw_instructions",
        "evolved_instructions",
        "filtered_instructions",
        "reward_scored_instructions",
        "rl_policy_checkpoint",
        "instruction_dataset",
        "evaluation_report",
    ):
        assert not warehouse.read(table).is_empty(), table
    roles = warehouse.query("SELECT DISTINCT role FROM store.completions")
    assert {"propose", "instance", "rewrite", "respond"} <= set(roles["role"])


def test_every_completion_is_vllm_s(home: Home, device: Device) -> None:
    warehouse = Warehouse(home.warehouse)
    base = warehouse.read("base_model")["fingerprint"].item()
    policies = warehouse.read("rl_policy_checkpoint")["policy"].to_list()
    tuned = [
        name
        for table in ("fine_tuned_model", "baseline_model")
        for name in warehouse.read(table)["fingerprint"]
    ]
    named = {
        backend_fingerprint("vllm", ModelRef("", name), device)
        for name in (base, *policies, *tuned)
    }
    found = set(warehouse.query("SELECT DISTINCT model FROM store.completions")["model"])
    assert found == named


def test_the_ledger_and_a_trace_hold(home: Home) -> None:
    warehouse = Warehouse(home.warehouse)
    report = verify(warehouse, home.checkpoints, deep=True)
    assert report.findings == []
    row_id = warehouse.query("SELECT min(row_id) FROM main.instruction_dataset").item()
    assert "completion" in str(trace(warehouse, row_id))


def test_transformers_reuses_what_vllm_wrote_if_asked_to(
    home: Home, project: Project, tmp_path: Path
) -> None:
    warehouse = Warehouse(home.warehouse)
    before = warehouse.query("SELECT row_id FROM main.raw_instructions ORDER BY ALL")
    stored = warehouse.query("SELECT count(*) FROM store.completions").item()
    select = ("--select", "raw_instructions")
    run(
        home,
        tmp_path / "reuse.log",
        project,
        *select,
        "--set",
        "generator.reuse_other_backends=true",
    )
    assert warehouse.query("SELECT count(*) FROM store.completions").item() == stored
    after = warehouse.query("SELECT row_id FROM main.raw_instructions ORDER BY ALL")
    assert after.equals(before)
    assert verify(warehouse, home.checkpoints, deep=False).findings == []

    run(home, tmp_path / "own.log", project, *select)
    assert warehouse.query("SELECT count(*) FROM store.completions").item() > stored
    keys = warehouse.query(
        "SELECT count(*) FROM main.raw_instructions ANTI JOIN store.completions "
        "ON completion_key = key"
    )
    assert keys.item() == 0
