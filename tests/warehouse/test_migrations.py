"""The schema is brought up in one transaction, or not at all, and never down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import duckdb
import polars as pl
import pytest

from refine_dagster.hashing import content_id
from refine_dagster.lineage.audit import verify
from refine_dagster.warehouse import schema, tables
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.migrations import MIGRATIONS, Migration
from refine_dagster.warehouse.rows import Row, frame, make_row
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.tables import Table
from refine_dagster.warehouse.warehouse import Warehouse
from tests.warehouse.conftest import Declare

KNOWN = MIGRATIONS


ADDS_A_TABLE = Migration(
    "9001_extra.sql",
    sql="CREATE TABLE lineage.extra (n BIGINT); INSERT INTO lineage.extra VALUES (7);",
)
FAILS = Migration(
    "9002_broken.sql", sql="CREATE TABLE lineage.half (n BIGINT); SELECT * FROM nowhere.at_all;"
)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "w.duckdb")


def knowing(monkeypatch: pytest.MonkeyPatch, *migrations: Migration) -> None:
    """Play a version of this project that knows these migrations."""
    monkeypatch.setattr(schema, "MIGRATIONS", migrations)


def applied(warehouse: Warehouse) -> list[tuple[int, str]]:
    with duckdb.connect(str(warehouse.path)) as connection:
        return connection.execute(
            "SELECT version, name FROM main.schema_migrations ORDER BY version"
        ).fetchall()


def has_table(warehouse: Warehouse, name: str) -> bool:
    with duckdb.connect(str(warehouse.path)) as connection:
        found = connection.execute(
            "SELECT 1 FROM duckdb_tables() WHERE schema_name = 'lineage' AND table_name = ?", [name]
        ).fetchall()
    return bool(found)


def step(**more: object) -> Row:
    return make_row("base_model_steps", {"step": 1, "loss": 0.5, "learning_rate": 0.1, **more})


def commit(warehouse: Warehouse, *rows: Row) -> None:
    record = Record("base_model", "run", "1", content_id("config", {}))
    warehouse.commit(
        record,
        {
            "base_model": frame("base_model", []),
            "base_model_steps": frame("base_model_steps", rows),
        },
    )


def test_all_are_applied_in_order_and_recorded(warehouse: Warehouse) -> None:
    warehouse.query("SELECT 1")
    names = [one.name for one in KNOWN]
    assert names == sorted(names)
    assert applied(warehouse) == list(enumerate(names, 1))


def test_an_older_database_is_brought_up(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(warehouse, step())
    before = warehouse.read("base_model_steps")
    knowing(monkeypatch, *KNOWN, ADDS_A_TABLE)
    assert warehouse.query("SELECT n FROM lineage.extra").item() == 7
    assert applied(warehouse)[-1] == (len(KNOWN) + 1, ADDS_A_TABLE.name)
    assert warehouse.read("base_model_steps").equals(before)
    assert warehouse.query("SELECT count(*) FROM lineage.extra").item() == 1


def test_a_failing_migration_leaves_the_old_version(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(warehouse, step())
    before = applied(warehouse)
    with monkeypatch.context() as newer:
        knowing(newer, *KNOWN, ADDS_A_TABLE, FAILS)
        with pytest.raises(duckdb.Error, match="nowhere"):
            warehouse.query("SELECT 1")
    assert applied(warehouse) == before
    assert not has_table(warehouse, "extra")
    assert not has_table(warehouse, "half")
    assert warehouse.read("base_model_steps").height == 1


def test_a_newer_database_is_refused_and_left_as_it_is(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as newer:
        knowing(newer, *KNOWN, ADDS_A_TABLE)
        warehouse.query("SELECT 1")
    before = warehouse.path.read_bytes()
    with pytest.raises(WarehouseError) as caught:
        warehouse.query("SELECT 1")
    told = str(caught.value)
    assert f"schema {len(KNOWN) + 1}, this one knows {len(KNOWN)}" in told
    assert "upgrade refine-dagster" in told
    assert str(warehouse.path) in told
    assert warehouse.path.read_bytes() == before


def test_a_new_table_appears(warehouse: Warehouse, declare: Declare) -> None:
    warehouse.query("SELECT 1")
    columns = MappingProxyType({"mark": ("BIGINT", "What was given.")})
    declare({"marks": Table("marks", "marks", columns, "One mark.")})
    assert warehouse.read("marks").columns == ["row_id", "mark", "parents"]
    assert "marks" in set(
        warehouse.query("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'history'")[
            "table_name"
        ]
    )
    assert verify(warehouse, warehouse.path.parent).whole


def test_a_new_column_appears_and_old_rows_stay_true(
    warehouse: Warehouse, declare: Declare
) -> None:
    """A row without the value is the row that it was before; one that lost its value is found."""
    commit(warehouse, step())
    version = warehouse.data_version("base_model")
    old = tables.TABLES["base_model_steps"]
    columns = {"note": ("VARCHAR", "A remark."), **old.columns}
    declare({old.name: replace(old, columns=columns, optional=("note",))})
    rows = warehouse.read("base_model_steps")
    assert rows.columns == ["row_id", "note", "step", "loss", "learning_rate", "parents"]
    assert rows["note"].to_list() == [None]
    assert verify(warehouse, warehouse.path.parent, True).findings == []
    commit(warehouse, step())
    assert warehouse.data_version("base_model") == version
    commit(warehouse, step(note="seen"), step(note=None))
    assert warehouse.read("base_model_steps").height == 2
    assert verify(warehouse, warehouse.path.parent, True).findings == []
    with warehouse.connect() as connection:
        connection.execute("UPDATE history.base_model_steps SET note = NULL WHERE note = 'seen'")
    assert not verify(warehouse, warehouse.path.parent).whole


def test_digests_of_uses_are_filled_in(warehouse: Warehouse) -> None:
    """Migration 2 gives uses recorded by version 1 the digests that their records add up to."""
    completion = pl.DataFrame({"sequence": [1], "key": ["k"], "sent": [True]})
    with duckdb.connect(str(warehouse.path)) as connection:
        KNOWN[0].apply(connection)
        connection.execute(
            "CREATE TABLE main.schema_migrations "
            "(version BIGINT PRIMARY KEY, name VARCHAR NOT NULL, applied_at VARCHAR NOT NULL)"
        )
        connection.execute(
            "INSERT INTO main.schema_migrations VALUES (1, ?, 'then')", [KNOWN[0].name]
        )
        connection.execute(
            "INSERT INTO store.completions VALUES "
            "('k', 'propose', 'm', 'p', '{}', 1, 'text', 'eos', 1, 1, 0.5, 'run')"
        )
        connection.register("used", completion.to_arrow())
        connection.execute("INSERT INTO lineage.uses BY NAME FROM used")
        recorded = connection.execute(
            "SELECT sha256(sha256(sent || CAST(to_json(completion) AS VARCHAR))) "
            "FROM lineage.uses JOIN store.completions AS completion USING (key)"
        ).fetchall()
    filled = warehouse.query("SELECT sha256(digest) FROM lineage.uses").rows()
    assert filled == recorded
