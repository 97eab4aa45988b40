"""A home that older code wrote opens as the same home: migrated in one step, with nothing lost."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest

from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.impact import impact
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.why import AssetExplanation, explain
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import TABLES, slice_of
from refine_dagster.warehouse.warehouse import Warehouse
from tests.warehouse.old_home import EXPECTED, unpack

OLD_TABLES: dict[str, Any] = EXPECTED["tables"]


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home as it was."""
    return unpack(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def home(old: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The home, opened once by today's code."""
    copied = Home(tmp_path_factory.mktemp("opened") / "home")
    shutil.copytree(old.root, copied.root)
    Warehouse(copied.warehouse).query("SELECT 1")
    return copied


@pytest.fixture
def warehouse(home: Home) -> Warehouse:
    return Warehouse(home.warehouse)


def test_the_audit_is_whole(home: Home, warehouse: Warehouse) -> None:
    report = verify(warehouse, home.checkpoints, deep=True)
    assert report.findings == []
    assert report.warnings == []
    told = EXPECTED["audit_verify_deep"]["checked"]
    same = ("rows", "completions", "edges", "checkpoints", "checkpoint files", "configs", "exports")
    assert {name: report.checked[name] for name in same} == {name: told[name] for name in same}


def test_the_ledger_is_the_old_one_and_goes_on(old: Home, warehouse: Warehouse) -> None:
    with duckdb.connect(str(old.warehouse), read_only=True) as connection:
        before = connection.execute(
            "SELECT * FROM lineage.materializations ORDER BY sequence"
        ).fetchall()
    after = warehouse.query("SELECT * FROM lineage.materializations ORDER BY sequence").rows()
    assert after[: len(before)] == before
    assert len(before) == EXPECTED["materializations"]
    runs = {row[1] for row in after[len(before) :]}
    assert runs
    assert all(run.startswith(MIGRATION) for run in runs)


@pytest.mark.parametrize("name", sorted(OLD_TABLES))
def test_rows_are_the_same(warehouse: Warehouse, name: str) -> None:
    told = OLD_TABLES[name]
    owned = slice_of(name)
    assert owned.asset == told["asset"]
    ids = warehouse.read(name)["row_id"].to_list()
    assert len(ids) == told["live_rows"]
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == told["row_ids_sha256"]
    removed = warehouse.query(
        f"SELECT count(*) FROM history.{owned.table.name} "
        f"WHERE {owned.condition} AND removed_in IS NOT NULL"
    )
    assert removed.item() == told["removed_rows"]


def test_nothing_is_left_of_the_tables_of_rounds(warehouse: Warehouse) -> None:
    found = warehouse.query(
        "SELECT DISTINCT schema_name, table_name FROM duckdb_columns() "
        "WHERE database_name = current_database() AND NOT internal"
    ).rows()
    assert {name for schema_name, name in found if schema_name == "history"} == set(TABLES)
    assert not [name for _, name in found if "_round_" in name]
    assert "rounds" not in {schema_name for schema_name, _ in found}
    named = warehouse.query(
        "SELECT table_name FROM lineage.parents UNION SELECT parent_table FROM lineage.parents"
    )
    assert set(named["table_name"]) <= set(TABLES)


def test_content_and_versions_stay(warehouse: Warehouse) -> None:
    """What was up to date in the old home is so in the new one."""
    rewritten = {
        asset
        for (asset,) in warehouse.query(
            "SELECT asset FROM lineage.materializations "
            f"WHERE starts_with(run_id, '{MIGRATION}') AND tables <> '{{}}'"
        ).rows()
    }
    for asset in EXPECTED["graph_assets"]:
        told = EXPECTED["assets"][asset]
        version = warehouse.data_version(asset)
        assert asset in rewritten or version == told["data_version"], asset
        last = warehouse.last_record(asset)
        assert last is not None
        assert last.code_version == told["code_version"]
        for source, read in last.inputs.items():
            if not source.startswith("file:"):
                assert read == warehouse.data_version(source), (asset, source)


def test_questions_of_lineage_reach_over_the_migration(warehouse: Warehouse) -> None:
    newest = warehouse.query(
        "SELECT d.row_id FROM instruction_dataset AS d JOIN filtered_instructions AS f "
        "ON f.row_id = d.instruction_id WHERE f.policy_round = 2 AND f.accepted_in = 2 ORDER BY 1"
    )["row_id"][0]
    ancestors = trace(warehouse, newest).rows
    assert ancestors["added_in"].null_count() == 0
    assert {"seed_tasks", "rl_policy_checkpoint", "base_model"} <= set(ancestors["table"])
    seed = ancestors.filter(ancestors["table"] == "seed_tasks")["row_id"][0]
    assert impact(warehouse, seed).rows.height > 0
    for asset in ("raw_instructions_round_2", "rl_policy_checkpoint", "instruction_dataset"):
        found = explain(warehouse, asset)
        assert isinstance(found, AssetExplanation)
        assert found.made.sequence <= EXPECTED["materializations"]
        assert found.reasons
    assert isinstance(explain(warehouse, "raw_instructions_round_3"), AssetExplanation)


KILLED = """
import os, signal, sys
from pathlib import Path
from refine_dagster.warehouse import schema
from refine_dagster.warehouse.migrations import Migration
from refine_dagster.warehouse.warehouse import Warehouse

kill = Migration("9001", lambda _: os.kill(os.getpid(), signal.SIGKILL))
schema.MIGRATIONS = (*schema.MIGRATIONS, kill)
Warehouse(Path(sys.argv[1])).query("SELECT 1")
"""


def test_a_kill_in_the_middle_leaves_the_old_home(old: Home, tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    shutil.copy(old.warehouse, path)
    child = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert child.returncode == -signal.SIGKILL
    with duckdb.connect(str(path), read_only=True) as connection:
        version = connection.execute("SELECT max(version) FROM main.schema_migrations").fetchall()
        rows = connection.execute("SELECT count(*) FROM raw_instructions_round_2").fetchall()
        records = connection.execute("SELECT count(*) FROM lineage.materializations").fetchall()
    assert version == [(EXPECTED["schema_version"],)]
    assert rows == [(OLD_TABLES["raw_instructions_round_2"]["live_rows"],)]
    assert records == [(EXPECTED["materializations"],)]
    assert verify(Warehouse(path), old.checkpoints).findings == []


def test_what_was_tampered_with_before_is_found_after(old: Home, tmp_path: Path) -> None:
    path = tmp_path / "warehouse.duckdb"
    shutil.copy(old.warehouse, path)
    with duckdb.connect(str(path)) as connection:
        ((row_id,),) = connection.execute(
            "SELECT min(row_id) FROM raw_instructions_round_2"
        ).fetchall()
        connection.execute(
            "UPDATE history.raw_instructions_round_2 SET instruction = 'x' WHERE row_id = ?",
            [row_id],
        )
        ((sequence, tables),) = connection.execute(
            "SELECT sequence, tables FROM lineage.materializations WHERE sequence = 3"
        ).fetchall()
        other = json.dumps(dict.fromkeys(json.loads(tables), "0" * 64))
        connection.execute(
            "UPDATE lineage.materializations SET tables = ? WHERE sequence = ?", [other, sequence]
        )
    places = [one.place for one in verify(Warehouse(path), old.checkpoints).findings]
    assert f"raw_instructions_round_2 row {row_id}" in places
    assert any(one.startswith("materialization 3 ") for one in places)
