"""Whether as many instructions were accepted as asked for, and if not, why."""

from __future__ import annotations

from pathlib import Path

from refine_dagster.lineage.target import ENDED_BY, read_targets
from tests.builders.warehouse import commit, new_warehouse


def test_the_last_record_says_what_came_of_the_target(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    found = []
    for accepted, ended_by in ((8, "target"), (5, "stall"), (6, "max_rounds")):
        metrics = {"accepted": accepted, "ended_by": ended_by}
        config = {"self_instruct": {"target": 8}}
        commit(warehouse, "raw_instructions", [], metrics=metrics, config=config)
        with warehouse.connect() as connection:
            [target] = read_targets(connection)
        assert target.label.endswith(ENDED_BY[ended_by])
        found.append((target.label.partition(" were")[0], target.is_reached))
    assert found == [
        ("8 of the 8 instructions asked for", True),
        ("5 of the 8 instructions asked for", False),
        ("6 of the 8 instructions asked for", False),
    ]


def test_a_round_of_its_own_and_records_without_figures(tmp_path: Path) -> None:
    warehouse = new_warehouse(tmp_path / "warehouse.duckdb")
    commit(warehouse, "raw_instructions", [])
    with warehouse.connect() as connection:
        assert read_targets(connection) == []
    metrics = {"accepted": 3, "ended_by": "stall"}
    config = {"self_instruct": {"target": 4}}
    commit(warehouse, "raw_instructions_round_2", [], metrics=metrics, config=config)
    with warehouse.connect() as connection:
        assert [one.asset for one in read_targets(connection)] == ["raw_instructions_round_2"]
