"""Rows of policy rounds that a graph no longer has are taken back, once, by recorded commits."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.warehouse.retired_rounds import RETIRED, retire_rounds_beyond
from refine_dagster.warehouse.rows import Parent, Row, make_row
from refine_dagster.warehouse.tables import key_sql
from refine_dagster.warehouse.warehouse import Warehouse
from tests.small_warehouse import commit, small_warehouse


def _pool(warehouse: Warehouse, number: int, before: list[Row], former: str) -> list[Row]:
    """Commit a pool of round `number` that takes over the one before."""
    name = f"filtered_instructions_round_{number}"
    columns = ("instruction", "method", "slot", "policy", "nearest_score")
    rows = [
        make_row(
            name,
            {**{column: row[column] for column in columns}, "accepted_in": 1},
            [Parent(former, row["row_id"], "former_pool")],
        )
        for row in before
    ]
    commit(warehouse, name, {name: rows})
    return rows


def test_rounds_beyond_are_emptied_and_the_others_kept(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    second = _pool(warehouse, 2, first, "filtered_instructions")
    _pool(warehouse, 3, second, "filtered_instructions_round_2")
    assert retire_rounds_beyond(warehouse, 3, "run") == []
    assert retire_rounds_beyond(warehouse, 2, "run") == ["filtered_instructions_round_3"]
    assert warehouse.read("filtered_instructions_round_3").is_empty()
    assert warehouse.read("filtered_instructions_round_2").height == len(first)
    assert retire_rounds_beyond(warehouse, 1, "run") == ["filtered_instructions_round_2"]
    assert warehouse.read("filtered_instructions").to_dicts() == first
    told = warehouse.query(
        "SELECT asset, code_version, rows_total, rows_removed, config "
        "FROM lineage.materializations JOIN lineage.configs USING (config_hash) "
        "WHERE code_version = ? ORDER BY sequence",
        [RETIRED],
    ).rows()
    assert told == [
        ("filtered_instructions_round_3", RETIRED, 0, len(first), '{"rounds":2}'),
        ("filtered_instructions_round_2", RETIRED, 0, len(first), '{"rounds":1}'),
    ]
    last = warehouse.query("SELECT max(sequence) FROM lineage.materializations").item()
    assert retire_rounds_beyond(warehouse, 1, "run") == []
    assert warehouse.query("SELECT max(sequence) FROM lineage.materializations").item() == last
    assert warehouse.read("filtered_instructions_round_2", as_of=last - 2).height == len(first)


def test_views_show_the_rounds_side_by_side(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    _pool(warehouse, 2, first, "filtered_instructions")
    found = warehouse.query(
        "SELECT policy_round, accepted_in, count(*) FROM rounds.filtered_instructions "
        "GROUP BY ALL ORDER BY ALL"
    ).rows()
    assert found == [(1, 1, len(first)), (2, 1, len(first))]


def test_an_instruction_keeps_its_natural_key_from_round_to_round(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    _pool(warehouse, 2, first, "filtered_instructions")
    keys = []
    for table in ("filtered_instructions", "filtered_instructions_round_2"):
        key, join = key_sql(table, "one")
        found = warehouse.query(f"SELECT {key} AS key FROM history.{table} AS one {join}")
        keys.append(sorted(found["key"]))
    assert keys[0] == keys[1]
    key, join = key_sql("instruction_dataset", "one")
    owned = warehouse.query(f"SELECT {key} AS key FROM history.instruction_dataset AS one {join}")
    assert set(owned["key"]) <= set(keys[0])
