"""The audit of the catalog: nothing may be there that the schema does not declare, or differ."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.rows import seed_row
from tests.builders.warehouse import commit, new_warehouse

A_TABLE = "history.seed_tasks"
BY_A_VIEW = f"""
    ALTER TABLE {A_TABLE} RENAME TO hidden;
    CREATE VIEW {A_TABLE} AS SELECT * REPLACE (
        if(current_query() LIKE '%sha256%', instruction, 'another') AS instruction
    ) FROM history.hidden
"""
# SQL -> a place that must be named.
EDITS = {
    "CREATE TABLE main.more (a INTEGER)": "table main.more",
    "CREATE TABLE history.more (a INTEGER)": "table history.more",
    "CREATE VIEW main.more AS SELECT 1 AS a": "view main.more",
    "CREATE VIEW lineage.more AS SELECT 1 AS a": "view lineage.more",
    "CREATE SCHEMA more": "schema more",
    "CREATE SCHEMA more; CREATE TABLE more.a (a INTEGER)": "table more.a",
    "CREATE MACRO main.sha256(x) AS 'as before'": "macro main.sha256",
    "CREATE MACRO history.count(x) AS 1": "macro history.count",
    "CREATE MACRO main.duckdb_functions() AS TABLE SELECT 1 AS a": "macro main.duckdb_functions",
    "CREATE MACRO main.current_database() AS 'memory'": "macro main.current_database",
    "CREATE OR REPLACE MACRO lineage.ancestors_of(asked) AS TABLE SELECT 1 AS depth":
        "macro lineage.ancestors_of",
    "CREATE INDEX more ON lineage.inputs (asset)": "index lineage.more",
    "CREATE SEQUENCE main.more": "sequence main.more",
    "CREATE TYPE main.more AS ENUM ('a')": "type main.more",
    f"ALTER TABLE {A_TABLE} ADD COLUMN more INTEGER": "column history.seed_tasks.more",
    f"ALTER TABLE {A_TABLE} ADD COLUMN \"a,b\" INTEGER": "column history.seed_tasks.a,b",
    f"ALTER TABLE {A_TABLE} DROP COLUMN name": "column history.seed_tasks.name",
    f"ALTER TABLE {A_TABLE} ALTER COLUMN name SET DEFAULT 'x'": "column history.seed_tasks.name",
    f"ALTER TABLE {A_TABLE} ALTER COLUMN row_hash DROP NOT NULL":
        "column history.seed_tasks.row_hash",
    f"ALTER TABLE {A_TABLE} ALTER COLUMN row_hash TYPE VARCHAR COLLATE NOCASE":
        "column history.seed_tasks.row_hash",
    "DROP TABLE lineage.inputs": "table lineage.inputs",
    "ALTER TABLE lineage.inputs RENAME TO more": "table lineage.more",
    "DROP VIEW main.exports": "view main.exports",
    "CREATE OR REPLACE VIEW lineage.rows AS SELECT 1 AS a": "view lineage.rows",
    BY_A_VIEW: "view history.seed_tasks",
    f"COMMENT ON COLUMN {A_TABLE}.name IS 'another'": "comment on column history.seed_tasks.name",
    f"COMMENT ON COLUMN {A_TABLE}.name IS NULL": "comment on column history.seed_tasks.name",
    f"COMMENT ON TABLE {A_TABLE} IS 'one'": "comment on table history.seed_tasks",
    "COMMENT ON VIEW main.seed_tasks IS 'another'": "comment on view main.seed_tasks",
    "COMMENT ON COLUMN lineage.inputs.asset IS 'one'": "comment on column lineage.inputs.asset",
    "ALTER TABLE main.schema_migrations ADD COLUMN applied_at VARCHAR":
        "column main.schema_migrations.applied_at",
    "UPDATE main.schema_migrations SET name = 'x' WHERE version = 2": "main.schema_migrations",
    "INSERT INTO lineage.declarations VALUES ('x')": "lineage.declarations",
}  # fmt: skip


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    commit(warehouse, "seed_tasks", [seed_row("s", "Say it.")])
    return warehouse


def spoil(warehouse: Warehouse, sql: str) -> None:
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute(sql)


def audited(warehouse: Warehouse) -> AuditReport:
    return verify(warehouse, warehouse.path.parent / "checkpoints")


@pytest.mark.parametrize("sql", EDITS)
def test_everything_undeclared_is_named(warehouse: Warehouse, sql: str) -> None:
    spoil(warehouse, sql)
    assert EDITS[sql] in [finding.place for finding in audited(warehouse).findings]


@pytest.mark.parametrize(
    "macro",
    [
        "main.sha256(x) AS (SELECT max(row_hash) FROM history.seed_tasks)",
        "history.sha256(x) AS (SELECT max(row_hash) FROM history.seed_tasks)",
        "main.to_json(x) AS 'the same'",
        "main.count(x) AS 0",
        "main.min(x) AS NULL",
    ],
)
def test_no_macro_hides_a_changed_cell(warehouse: Warehouse, macro: str) -> None:
    spoil(warehouse, f"UPDATE {A_TABLE} SET instruction = 'another'; CREATE MACRO {macro}")
    places = [finding.place for finding in audited(warehouse).findings]
    assert any(place.startswith("macro ") for place in places)
    assert any(place.startswith("seed_tasks row ") for place in places)


def test_many_of_a_kind_are_counted(warehouse: Warehouse) -> None:
    spoil(warehouse, "".join(f"CREATE TABLE main.more_{n} (a INTEGER);" for n in range(30)))
    assert len(audited(warehouse).findings) == 11


def test_a_changed_fingerprint_is_warned_of(warehouse: Warehouse) -> None:
    assert audited(warehouse).warnings == []
    spoil(warehouse, "UPDATE lineage.declarations SET fingerprint = 'x'")
    report = audited(warehouse)
    assert [warning.place for warning in report.warnings] == ["lineage.declarations"]
    assert report.whole
