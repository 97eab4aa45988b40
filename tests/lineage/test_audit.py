"""The audit of a small warehouse: what grows, what was pruned, and what the command says."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.generation.request import Request, Sampling, sampling_fields
from refine_dagster.hashing import canonical_json, content_id
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.audit_report import LISTED
from refine_dagster.warehouse import ledger
from refine_dagster.warehouse.ledger import Record, RoleUsage
from refine_dagster.warehouse.rows import frame, make_row
from refine_dagster.warehouse.warehouse import Warehouse

CONFIG = {"temperature": 0.7, "salt": "s"}


def record(asset: str, **more: object) -> Record:
    return Record(asset, "run", "1", content_id("config", CONFIG), config=CONFIG, **more)  # type: ignore[arg-type]


def steps(*losses: float) -> dict[str, pl.DataFrame]:
    rows = [
        make_row("base_model_steps", {"step": n, "loss": loss, "learning_rate": 0.1})
        for n, loss in enumerate(losses, 1)
    ]
    return {
        "base_model": frame("base_model", []),
        "base_model_steps": frame("base_model_steps", rows),
    }


def answer(warehouse: Warehouse, prompt: str, model: str = "m") -> str:
    """Store a completion of the prompt; its key."""
    request = Request("propose", prompt, Sampling(8, temperature=0.7, stop=("\n",)), 2**62 + 1)
    row = {
        "key": request.key(model),
        "role": request.role,
        "model": model,
        "prompt": prompt,
        "sampling": canonical_json(sampling_fields(request.sampling)),
        "seed": request.seed,
        "text": "an answer",
        "finish_reason": "stop",
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "seconds": 0.1,
        "run_id": "run",
    }
    with warehouse.connect() as connection:
        connection.register("answered", pl.DataFrame([row]).to_arrow())
        connection.execute("INSERT INTO store.completions BY NAME FROM answered")
    return str(row["key"])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("REFINE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def warehouse(home: Path) -> Warehouse:
    return Warehouse(home / "warehouse.duckdb")


def places(warehouse: Warehouse, *, deep: bool = True) -> list[str]:
    report = verify(warehouse, warehouse.path.parent / "checkpoints", deep)
    return [finding.place for finding in report.findings]


def test_nothing_yet(warehouse: Warehouse) -> None:
    assert places(warehouse) == []


def test_every_past_state_is_looked_at(warehouse: Warehouse) -> None:
    for losses in ((1.0, 0.5), (1.0,), (), (1.0, 0.5, 3.0), (1.0, 0.5, 3.0)):
        warehouse.commit(record("base_model"), steps(*losses))
    report = verify(warehouse, warehouse.path.parent, True)
    assert report.whole
    assert report.checked["past states"] == 10
    with warehouse.connect() as connection:
        connection.execute(
            "UPDATE history.base_model_steps SET removed_in = 3 WHERE removed_in = 2"
        )
    assert places(warehouse, deep=False) == []
    assert places(warehouse) == ["table base_model_steps as of 2"]


@pytest.mark.parametrize(
    "prompt", ["plain", 'a "quoted" \\ /slash', "line\nbreak\ttab", "\x01\x0b\x1f\x7f\u2028", "ü🙂"]
)
def test_keys_are_recomputed_whatever_the_text(warehouse: Warehouse, prompt: str) -> None:
    key = answer(warehouse, prompt)
    assert places(warehouse) == []
    with warehouse.connect() as connection:
        connection.execute("UPDATE store.completions SET seed = seed - 1")
    assert places(warehouse) == [f"store.completions {key}"]


def test_completions_not_yet_used_are_counted(warehouse: Warehouse) -> None:
    answer(warehouse, "one")
    used = answer(warehouse, "two")
    usage = {"propose": RoleUsage(asked=1, sent=1)}
    warehouse.commit(
        record("raw_instructions", uses={used: True}, usage=usage),
        {"raw_instructions": frame("raw_instructions", [])},
    )
    report = verify(warehouse, warehouse.path.parent)
    assert report.whole
    assert report.checked["completions"] == 2
    (skipped,) = report.skipped
    assert skipped.startswith("1 completions that no materialization has used yet")


def test_sums_and_versions_must_add_up(warehouse: Warehouse) -> None:
    """A record that was false when it was written is found although its digest is right."""
    warehouse.commit(record("base_model"), steps(1.0))
    with warehouse.connect() as connection:
        connection.execute("UPDATE lineage.materializations SET data_version = sha256('x')")
        (row,) = connection.sql("SELECT * FROM lineage.materializations").pl().to_dicts()
        attached: dict[str, list[list[object]]] = {"inputs": [], "requests": [], "checkpoints": []}
        digest = ledger.record_digest(row, attached)
        connection.execute("UPDATE lineage.materializations SET digest = ?", [digest])
    assert places(warehouse) == ["materialization 1 (base_model)"]


def test_the_command(home: Path, warehouse: Warehouse) -> None:
    runner = CliRunner()
    warehouse.commit(record("base_model"), steps(1.0))
    good = runner.invoke(app, ["audit", "verify", "--deep"])
    assert good.exit_code == 0
    assert good.output.splitlines()[-1] == "whole"
    with warehouse.connect() as connection:
        connection.execute("UPDATE history.base_model_steps SET loss = 2")
        connection.execute("UPDATE lineage.materializations SET device = '{ }'")
    bad = runner.invoke(app, ["audit", "verify"])
    assert bad.exit_code == 1
    first, second, *_ = bad.output.splitlines()
    assert first.startswith("broken: materialization 1 (base_model): ")
    assert second.startswith("broken: base_model_steps row ")
    told = json.loads(runner.invoke(app, ["audit", "verify", "--format", "json"]).output)
    assert told["whole"] is False
    assert told["findings"][0]["place"] == "materialization 1 (base_model)"
    assert told["checked"]["rows"] == 1


def test_the_command_lists_the_first_of_many(home: Path, warehouse: Warehouse) -> None:
    warehouse.commit(record("base_model"), steps(*(float(n) for n in range(30))))
    with warehouse.connect() as connection:
        connection.execute("UPDATE history.base_model_steps SET loss = loss + 1")
    report = verify(warehouse, home / "checkpoints")
    assert len(report.findings) == LISTED + 1
    assert report.findings[-1].what.endswith("and so do 19 more after it")
