"""`audit head` and `audit verify --head`: the home against a digest that was noted elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb
import pytest
from typer.testing import CliRunner, Result

from refine_dagster.cli import app
from refine_dagster.warehouse.heads import append_head, heads_of, read_head
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import seed_row
from tests.builders.warehouse import commit, new_warehouse


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    monkeypatch.setenv("REFINE_HOME", str(tmp_path / "home"))
    warehouse = new_warehouse(tmp_path / "home" / "warehouse.duckdb")
    commit(warehouse, "seed_tasks", [seed_row("s", "one")])
    return warehouse


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["audit", *arguments])


def test_a_head_that_was_noted(warehouse: Warehouse) -> None:
    noted = call("head").output.strip()
    assert call("verify", "--head", noted).exit_code == 0
    older = warehouse.path.read_bytes()
    commit(warehouse, "seed_tasks", [seed_row("s", "two")])
    last = json.loads(call("head", "--format", "json").output)
    assert (last["sequence"], last["first"]) == (2, noted)
    assert call("verify", "--head", noted, "--head", last["digest"]).exit_code == 0
    warehouse.path.write_bytes(older)
    assert call("verify").exit_code == 0
    after = call("verify", "--head", last["digest"])
    assert after.exit_code == 1
    assert after.output.startswith(f"broken: head {last['digest']} (given): is no entry")


def test_a_witness_file(
    warehouse: Warehouse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    witness = tmp_path / "witness.jsonl"
    monkeypatch.setenv("REFINE_AUDIT__WITNESS", str(witness))
    assert "is not there" in call("verify").output
    older = warehouse.path.read_bytes()
    commit(warehouse, "seed_tasks", [seed_row("s", "two")])
    with warehouse.reading() as connection:
        head = read_head(connection)
    assert head is not None
    append_head(witness, head, warehouse.path.parent, {"run": "r"})
    assert call("verify").exit_code == 0
    warehouse.path.write_bytes(older)
    assert f"{witness}, line 1" in call("verify").output
    # Of another home there is nothing to compare; of one moved elsewhere there is.
    assert heads_of(witness, tmp_path, "0") == []
    assert len(heads_of(witness, tmp_path, head.first)) == 1


def test_a_changed_fingerprint_is_told(warehouse: Warehouse) -> None:
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("UPDATE lineage.declarations SET fingerprint = 'x'")
    assert "warning: lineage.declarations: " in call("verify").output
    assert "warning: " not in call("verify").output


@pytest.mark.parametrize("digest", ["", "abc", "Z" * 64])
def test_what_is_no_digest(warehouse: Warehouse, digest: str) -> None:
    result = call("verify", "--head", digest)
    assert "no digest of the ledger" in str(result.exception)
