"""Commits are all or nothing, history is kept, versions are content, and locks are waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import polars as pl
import pytest

from refine_dagster import progress
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.hashing import canonical_json
from refine_dagster.warehouse.ledger import GENESIS, Record, RoleUsage, record_digest
from refine_dagster.warehouse.rows import Parent, Row, frame, make_row
from refine_dagster.warehouse.schema import WarehouseError, WarehouseLockedError
from refine_dagster.warehouse.tables import TABLES, slice_of, tables_of
from refine_dagster.warehouse.warehouse import StaleInputsError, Warehouse
from tests.builders.warehouse import new_warehouse


def seed(name: str, instruction: str = "Name a fruit.") -> Row:
    return make_row(
        "seed_tasks",
        {
            "seed_id": name,
            "name": name,
            "instruction": instruction,
            "input": "",
            "output": 'a "pear" – ü',
            "instances": [{"input": "", "output": "a pear"}],
            "is_classification": False,
        },
    )


def record(asset: str = "seed_tasks", **kwargs: object) -> Record:
    return Record(asset, "run", "1", "config", **kwargs)  # type: ignore[arg-type]


def seeds(*names: str) -> dict[str, pl.DataFrame]:
    return {"seed_tasks": frame("seed_tasks", [seed(name) for name in names])}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "w.duckdb", lock_timeout_s=0.3)


def test_commit_counts_and_live_view(warehouse: Warehouse) -> None:
    first = warehouse.commit(record(), seeds("a", "b", "c"))
    second = warehouse.commit(record(), seeds("b", "c", "d"))
    assert (first.sequence, first.rows_total, first.rows_added, first.rows_removed) == (1, 3, 3, 0)
    assert (second.rows_total, second.rows_added, second.rows_removed) == (3, 1, 1)
    assert second.rows_reused == 2
    assert sorted(warehouse.read("seed_tasks")["seed_id"]) == ["b", "c", "d"]


def test_as_of_any_past_materialization(warehouse: Warehouse) -> None:
    states = [("a", "b"), ("b",), (), ("a", "c")]
    for names in states:
        warehouse.commit(record(), seeds(*names))
    for sequence, names in enumerate(states, 1):
        assert tuple(sorted(warehouse.read("seed_tasks", as_of=sequence)["seed_id"])) == names
    assert warehouse.read("seed_tasks", as_of=0).is_empty()


def test_version_is_content(warehouse: Warehouse) -> None:
    one = warehouse.commit(record(), seeds("a", "b")).data_version
    other = warehouse.commit(record(), seeds("a")).data_version
    back = warehouse.commit(record(), seeds("b", "a")).data_version
    assert one == back != other
    assert warehouse.data_version("seed_tasks") == back
    assert warehouse.data_version("base_model") is None


def test_version_covers_companion_tables(warehouse: Warehouse) -> None:
    def models(loss: float) -> dict[str, pl.DataFrame]:
        model = make_row(
            "base_model",
            {
                "model": "m",
                "revision": None,
                "fingerprint": "f",
                "parameters": 1,
                "vocab_size": 2,
                "context_length": 3,
                "checkpoint_hash": None,
            },
        )
        step = make_row("base_model_steps", {"step": 1, "loss": loss, "learning_rate": 0.1})
        return {
            "base_model": frame("base_model", [model]),
            "base_model_steps": frame("base_model_steps", [step]),
        }

    versions = [
        warehouse.commit(record("base_model"), models(loss)).data_version for loss in (0.5, 0.25)
    ]
    assert versions[0] != versions[1]
    assert warehouse.read("base_model_steps")["loss"].to_list() == [0.25]


def test_recommit_as_they_are(warehouse: Warehouse) -> None:
    before = warehouse.commit(record(), seeds("a", "b"))
    after = warehouse.commit(record(), None)
    assert after.data_version == before.data_version
    assert (after.rows_total, after.rows_added, after.rows_reused) == (2, 0, 2)


def test_ledger_is_a_hash_chain(warehouse: Warehouse) -> None:
    usage = {"propose": RoleUsage(5, 2, 3, 10, 20, 0.5), "instance": RoleUsage(1, 0, 1)}
    warehouse.commit(record(inputs={"file:x": "x"}, usage=usage, metrics={"a": 1.5}), seeds("a"))
    warehouse.commit(record(), seeds("a", "b"))
    rows = warehouse.query("SELECT * FROM lineage.materializations ORDER BY sequence").to_dicts()
    assert rows[0]["previous_digest"] == GENESIS
    assert rows[1]["previous_digest"] == rows[0]["digest"]
    attached: dict[str, list[list[object]]] = {
        "inputs": [["file:x", "x"]],
        "requests": [["instance", 1, 0, 1, 0, 0, 0.0], ["propose", 5, 2, 3, 10, 20, 0.5]],
        "checkpoints": [],
    }
    assert record_digest(rows[0], attached) == rows[0]["digest"]
    assert record_digest({**rows[0], "rows_total": 2}, attached) != rows[0]["digest"]
    assert record_digest(rows[0], {**attached, "inputs": []}) != rows[0]["digest"]
    assert [rows[0][f"requests_{kind}"] for kind in ("asked", "reused", "sent")] == [6, 2, 4]
    assert json.loads(rows[0]["metrics"]) == {"a": 1.5}
    roles = warehouse.query("SELECT role, sent FROM lineage.requests ORDER BY role").rows()
    assert roles == [("instance", 1), ("propose", 3)]
    last = warehouse.last_record("seed_tasks")
    assert last is not None
    assert last.inputs == {}


def test_a_commit_of_stale_inputs_is_refused(warehouse: Warehouse) -> None:
    version = warehouse.commit(record(), seeds("a")).data_version
    warehouse.commit(record(), seeds("a", "b"))
    with pytest.raises(StaleInputsError, match="seed_tasks changed while base_model"):
        warehouse.commit(record("base_model", inputs={"seed_tasks": version}), None)
    assert warehouse.last_record("base_model") is None


def test_parents_are_kept_once_for_ever(warehouse: Warehouse) -> None:
    (one,) = [seed("a")]
    child = make_row(
        "filtered_instructions",
        {
            "instruction": "Name a bird.",
            "method": "self_instruct",
            "slot": "0",
            "policy": "p",
            "nearest_score": 0.1,
        },
        [Parent("seed_tasks", one["row_id"], "demonstration")],
    )
    for rows in ([child], [], [child]):
        tables = {"filtered_instructions": frame("filtered_instructions", rows)}
        warehouse.commit(record("filtered_instructions"), tables)
    edges = warehouse.query("SELECT * FROM lineage.edges").rows()
    assert edges == [
        (
            "filtered_instructions",
            1,
            child["row_id"],
            "seed_tasks",
            1,
            one["row_id"],
            "demonstration",
        )
    ]
    lives = warehouse.query(
        "SELECT added_in, removed_in FROM lineage.rows WHERE row_id = ? ORDER BY 1",
        [child["row_id"]],
    )
    assert lives.rows() == [(1, 2), (3, None)]


def test_a_failed_commit_leaves_nothing(warehouse: Warehouse) -> None:
    warehouse.commit(record(), seeds("a"))
    twice = pl.concat([seeds("b")["seed_tasks"]] * 2)
    with pytest.raises(WarehouseError, match="occur twice"):
        warehouse.commit(record(), {"seed_tasks": twice})
    assert warehouse.read("seed_tasks")["seed_id"].to_list() == ["a"]
    assert warehouse.query("SELECT count(*) FROM lineage.materializations").item() == 1


def test_tables_must_be_the_assets_own(warehouse: Warehouse) -> None:
    with pytest.raises(WarehouseError, match="owns"):
        warehouse.commit(record(), {})
    with pytest.raises(WarehouseError, match="no table 'nonsense'"):
        warehouse.read("nonsense")


def test_rows_name_their_content_and_parents() -> None:
    a, b = Parent("x", "1", "role"), Parent("x", "2", "role")
    payload = {"step": 1, "loss": 0.5, "learning_rate": 0.1}
    row = make_row("base_model_steps", payload, [a, b])
    assert row == make_row("base_model_steps", payload, [b, a, b])
    assert row["row_id"] != make_row("base_model_steps", payload, [a])["row_id"]
    assert row["row_id"] != make_row("base_model_steps", {**payload, "loss": 0.6}, [a, b])["row_id"]
    with pytest.raises(KeyError, match="missing columns"):
        make_row("base_model_steps", {"step": 1})


def test_every_table_is_typed_and_owned(warehouse: Warehouse) -> None:
    for table in TABLES.values():
        name = PolicyRound(table.rounds_from or 1).name(table.name)
        assert warehouse.read(name).schema == frame(name, []).schema
        assert name in {one.name for one in tables_of(slice_of(name).asset)}
    assert set(TABLES) <= set(warehouse.relations())


def test_newer_schema_is_refused(warehouse: Warehouse) -> None:
    warehouse.query("SELECT 1")
    with warehouse.connect() as connection:
        connection.execute("INSERT INTO main.schema_migrations VALUES (99, 'future')")
    with pytest.raises(WarehouseError, match="newer version"):
        warehouse.query("SELECT 1")


def test_not_a_database(tmp_path: Path) -> None:
    path = tmp_path / "w.duckdb"
    path.write_text("this is no database, whatever its name says" * 200)
    with pytest.raises(WarehouseError, match="cannot open"):
        Warehouse(path).query("SELECT 1")


HOLDER = """
import duckdb, sys, time
connection = duckdb.connect(sys.argv[1])
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held(path: Path, seconds: float) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), str(seconds)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_held_lock_is_reported_with_its_holder(warehouse: Warehouse) -> None:
    warehouse.query("SELECT 1")
    notes: list[str] = []
    with held(warehouse.path, 60) as process:
        with (
            progress.reporting(progress.NoteReporter(notes.append)),
            pytest.raises(WarehouseLockedError) as caught,
        ):
            warehouse.commit(record(), seeds("a"))
        assert str(process.pid) in str(caught.value)
    (note,) = notes
    assert note.startswith("waiting up to ")
    assert str(process.pid) in note
    assert warehouse.commit(record(), seeds("a")).sequence == 1


def test_a_held_lock_is_waited_for(tmp_path: Path) -> None:
    patient = Warehouse(tmp_path / "w.duckdb", lock_timeout_s=30)
    patient.query("SELECT 1")
    with held(patient.path, 1.5):
        began = time.monotonic()
        assert patient.commit(record(), seeds("a")).sequence == 1
        assert time.monotonic() - began > 0.5


def test_canonical_json_is_order_free() -> None:
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'


def test_read_only_changes_and_makes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "home" / "warehouse.duckdb"
    with pytest.raises(WarehouseError):
        Warehouse(path, read_only=True).data_versions()
    assert not path.parent.exists()
    Warehouse(path).data_versions()
    content = path.read_bytes()
    opened = Warehouse(path, read_only=True)
    assert opened.data_versions() == {}
    with opened.connect() as connection, pytest.raises(duckdb.InvalidInputException):
        connection.execute("DELETE FROM store.completions")
    assert path.read_bytes() == content
