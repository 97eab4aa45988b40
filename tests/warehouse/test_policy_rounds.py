"""A table has the rows of all policy rounds, and an asset of a round commits its own of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.lineage.audit import verify
from refine_dagster.warehouse.rows import Parent, Row, make_row
from refine_dagster.warehouse.tables import key_sql
from refine_dagster.warehouse.warehouse import RETIRED, Warehouse
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit


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
    assert warehouse.retire_rounds_beyond(3, "run") == []
    assert warehouse.retire_rounds_beyond(2, "run") == ["filtered_instructions_round_3"]
    assert warehouse.read("filtered_instructions_round_3").is_empty()
    assert warehouse.read("filtered_instructions_round_2").height == len(first)
    assert warehouse.retire_rounds_beyond(1, "run") == ["filtered_instructions_round_2"]
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
    assert warehouse.retire_rounds_beyond(1, "run") == []
    assert warehouse.query("SELECT max(sequence) FROM lineage.materializations").item() == last
    assert warehouse.read("filtered_instructions_round_2", as_of=last - 2).height == len(first)


def test_a_table_shows_the_rounds_side_by_side(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    _pool(warehouse, 2, first, "filtered_instructions")
    found = warehouse.query(
        "SELECT policy_round, accepted_in, count(*) FROM filtered_instructions "
        "GROUP BY ALL ORDER BY ALL"
    ).rows()
    assert found == [(1, None, len(first)), (2, 1, len(first))]


def test_a_commit_replaces_its_round_alone(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    version = warehouse.data_version("filtered_instructions")
    second = _pool(warehouse, 2, first, "filtered_instructions")
    later = warehouse.data_version("filtered_instructions_round_2")
    commit(warehouse, "filtered_instructions", {"filtered_instructions": first[:1]})
    assert warehouse.read("filtered_instructions").to_dicts() == first[:1]
    assert warehouse.read("filtered_instructions_round_2")["row_id"].to_list() == sorted(
        row["row_id"] for row in second
    )
    commit(warehouse, "filtered_instructions", {"filtered_instructions": first})
    commit(warehouse, "filtered_instructions_round_2", {"filtered_instructions_round_2": second})
    assert warehouse.data_version("filtered_instructions") == version
    assert warehouse.data_version("filtered_instructions_round_2") == later


def test_the_edges_of_a_later_round_name_table_and_round(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    second = _pool(warehouse, 2, first, "filtered_instructions")
    _pool(warehouse, 3, second, "filtered_instructions_round_2")
    edges = warehouse.query(
        "SELECT DISTINCT table_name, policy_round, parent_table, parent_round FROM lineage.edges "
        "WHERE role = 'former_pool' ORDER BY ALL"
    ).rows()
    name = "filtered_instructions"
    assert edges == [(name, 2, name, 1), (name, 3, name, 2)]
    assert warehouse.query(
        "SELECT DISTINCT policy_round, asset FROM lineage.rows WHERE table_name = ? ORDER BY ALL",
        [name],
    ).rows() == [(1, name), (2, f"{name}_round_2"), (3, f"{name}_round_3")]
    found = {one.place for one in verify(warehouse, tmp_path, deep=True).findings}
    assert not [one for one in found if name in one]


@pytest.mark.parametrize("removed", [False, True])
def test_a_row_moved_to_another_round_is_found(tmp_path: Path, removed: bool) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    name = "filtered_instructions"
    first = warehouse.read(name).to_dicts()
    _pool(warehouse, 2, first, name)
    if removed:
        commit(warehouse, name, {name: first[1:]})
    with warehouse.connect() as connection:
        connection.execute(
            f"UPDATE history.{name} SET policy_round = 2 WHERE row_id = ?", [first[0]["row_id"]]
        )
    places = {one.place for one in verify(warehouse, tmp_path).findings}
    if removed:
        assert f"{name}_round_2 row {first[0]['row_id']}" in places
    else:
        assert {f"table {name}", f"table {name}_round_2"} <= places


def test_an_instruction_keeps_its_natural_key_from_round_to_round(tmp_path: Path) -> None:
    warehouse = small_warehouse(tmp_path / "w.duckdb")
    first = warehouse.read("filtered_instructions").to_dicts()
    _pool(warehouse, 2, first, "filtered_instructions")
    key, join = key_sql("filtered_instructions", "one")
    found = warehouse.query(
        f"SELECT policy_round, {key} AS key FROM history.filtered_instructions AS one {join}"
    )
    keys = [sorted(found.filter(found["policy_round"] == number)["key"]) for number in (1, 2)]
    assert keys[1] == [f"round 2 {one}" for one in keys[0]]
    key, join = key_sql("instruction_dataset", "one")
    owned = warehouse.query(f"SELECT {key} AS key FROM history.instruction_dataset AS one {join}")
    assert set(owned["key"]) <= set(keys[0])
