"""A migration that stores the same rows in another form: ids stay, the ledger says what changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import duckdb
import pytest

from refine_dagster.hashing import content_id
from refine_dagster.lineage.audit import verify
from refine_dagster.lineage.why import AssetExplanation, explain
from refine_dagster.warehouse import schema
from refine_dagster.warehouse.ledger import MIGRATION, Record
from refine_dagster.warehouse.migrations import MIGRATIONS, Migration
from refine_dagster.warehouse.rewrites import gather_columns
from refine_dagster.warehouse.rows import Row, frame, make_row, row_id
from refine_dagster.warehouse.tables import MAP_TYPE, TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.warehouse.conftest import Declare

STEPS = "base_model_steps"
FIGURES = {"loss": 0.5, "learning_rate": None}
OLD = TABLES[STEPS]


def gathered() -> Mapping[str, Any]:
    """The table with its figures in one mapping."""
    columns = {"step": OLD.columns["step"], "figures": (MAP_TYPE, "Figures of the step.")}
    return {STEPS: replace(OLD, columns=MappingProxyType(columns))}


def apply(connection: duckdb.DuckDBPyConnection) -> None:
    gather_columns(connection, len(MIGRATIONS) + 1, [STEPS, "nonsense"], list(FIGURES), "figures")


@pytest.fixture
def switch(declare: Declare, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Go over to the version with the mapping."""

    def switch() -> None:
        declare(gathered())
        migrations = (*MIGRATIONS, Migration("9001_gather", apply))
        monkeypatch.setattr(schema, "MIGRATIONS", migrations)

    return switch


def commit(warehouse: Warehouse, steps: Sequence[Row]) -> None:
    record = Record("base_model", "run", "1", content_id("config", {}))
    warehouse.commit(record, {"base_model": frame("base_model", []), STEPS: frame(STEPS, steps)})


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    """Three states of a table, and an asset that read the last one."""
    warehouse = Warehouse(tmp_path / "w.duckdb")
    steps = [make_row(STEPS, {"step": number, **FIGURES}) for number in (1, 2, 3)]
    for rows in (steps[:2], steps[1:], steps[1:]):
        commit(warehouse, rows)
    version = warehouse.data_version("base_model")
    assert version is not None
    reader = Record(
        "fine_tuned_model", "run", "1", content_id("config", {}), inputs={"base_model": version}
    )
    warehouse.commit(
        reader,
        {name: frame(name, []) for name in ("fine_tuned_model", "fine_tuned_model_steps")},
    )
    return warehouse


def ledger(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.query("SELECT * FROM lineage.materializations ORDER BY sequence").rows()


def test_entries_of_a_mapping_count_as_columns(declare: Declare) -> None:
    plain = make_row(STEPS, {"step": 1, **FIGURES})
    declare(gathered())
    row = make_row(STEPS, {"step": 1, "figures": {"loss": 0.5, "learning_rate": None}})
    assert row["row_id"] == plain["row_id"]
    assert list(row["figures"].items()) == [("learning_rate", None), ("loss", 0.5)]
    assert make_row(STEPS, {"step": 1, "figures": {"loss": 2}})["figures"] == {"loss": 2.0}
    assert row_id(STEPS, {"step": 1, "figures": {}}, []) != row["row_id"]
    with pytest.raises(KeyError, match=r"named like columns: \['step'\]"):
        make_row(STEPS, {"step": 1, "figures": {"step": 1.0}})


def test_mappings_come_back_as_they_went_in(tmp_path: Path, declare: Declare) -> None:
    declare(gathered())
    warehouse = Warehouse(tmp_path / "w.duckdb")
    rows = [
        make_row(STEPS, {"step": number, "figures": figures})
        for number, figures in enumerate(({"b": 1.5, "a": None}, {}), 1)
    ]
    commit(warehouse, rows)
    assert warehouse.read(STEPS).schema == frame(STEPS, []).schema
    assert warehouse.read(STEPS).sort("step").to_dicts() == rows
    assert warehouse.query(f"SELECT figures['b'] FROM {STEPS} ORDER BY step").rows() == [
        (1.5,),
        (None,),
    ]
    assert verify(warehouse, tmp_path, deep=True).findings == []
    with warehouse.connect() as connection:
        connection.execute(
            f"UPDATE history.{STEPS} SET figures = MAP {{'a': 2.0, 'b': 1.5}} WHERE step = 1"
        )
    found = verify(warehouse, tmp_path).findings
    assert [one.place for one in found] == [f"{STEPS} row {rows[0]['row_id']}"]


def test_rows_keep_their_ids_and_assets_stay_up_to_date(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    ids, before = warehouse.read(STEPS)["row_id"].to_list(), ledger(warehouse)
    old = warehouse.data_version("base_model")
    switch()
    assert warehouse.read(STEPS)["row_id"].to_list() == ids
    assert warehouse.read(STEPS)["figures"].to_list() == [FIGURES] * 2
    new = warehouse.data_version("base_model")
    assert new != old
    after = ledger(warehouse)
    assert after[: len(before)] == before
    assert [row[1:3] for row in after[len(before) :]] == [
        (f"{MIGRATION}{len(MIGRATIONS) + 1}", "base_model"),
        (f"{MIGRATION}{len(MIGRATIONS) + 1}", "fine_tuned_model"),
    ]
    assert warehouse.data_version("fine_tuned_model") == after[3][3]
    last = warehouse.last_record("fine_tuned_model")
    assert last is not None
    assert last.inputs == {"base_model": new}
    # The same rows again are the same content.
    commit(warehouse, [make_row(STEPS, {"step": n, "figures": FIGURES}) for n in (2, 3)])
    assert warehouse.data_version("base_model") == new
    assert warehouse.query("SELECT arg_max(rows_added, sequence) FROM lineage.materializations"
                           ).item() == 0  # fmt: skip


def test_the_audit_knows_which_states_were_recorded_in_the_old_form(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    switch()
    report = verify(warehouse, warehouse.path.parent, deep=True)
    assert report.findings == []
    assert report.skipped == [
        "3 past states recorded before a migration changed how rows are hashed: their rows were "
        "checked one by one"
    ]
    commit(warehouse, [])
    report = verify(warehouse, warehouse.path.parent, deep=True)
    assert report.findings == []
    removed = warehouse.query(f"SELECT min(row_id) FROM history.{STEPS}").item()
    with warehouse.connect() as connection:
        connection.execute(
            f"UPDATE history.{STEPS} SET figures = MAP {{'loss': 9.0}} WHERE row_id = ?", [removed]
        )
    assert f"{STEPS} row {removed}" in {
        one.place for one in verify(warehouse, warehouse.path.parent, deep=True).findings
    }


def test_past_states_of_a_slice_whose_rows_are_all_removed_are_in_the_old_form(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    commit(warehouse, [])
    switch()
    report = verify(warehouse, warehouse.path.parent, deep=True)
    assert report.findings == []
    assert report.skipped[0].startswith("4 past states recorded before a migration")


def test_what_was_broken_before_is_broken_after(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    spoilt = warehouse.read(STEPS)["row_id"][0]
    with warehouse.connect() as connection:
        connection.execute(f"UPDATE history.{STEPS} SET loss = 9.0 WHERE row_id = ?", [spoilt])
    place = f"{STEPS} row {spoilt}"
    assert place in {one.place for one in verify(warehouse, warehouse.path.parent).findings}
    switch()
    assert place in {one.place for one in verify(warehouse, warehouse.path.parent).findings}


def test_a_table_that_its_record_does_not_tell_of_gets_no_new_one(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    with warehouse.connect() as connection:
        connection.execute(f"DELETE FROM history.{STEPS} WHERE step = 3")
    before = ledger(warehouse)
    switch()
    assert ledger(warehouse) == before
    places = {one.place for one in verify(warehouse, warehouse.path.parent).findings}
    assert f"table {STEPS}" in places


def test_a_rewrite_is_no_change_of_the_asset(
    warehouse: Warehouse, switch: Callable[[], None]
) -> None:
    switch()
    found = explain(warehouse, "base_model")
    assert isinstance(found, AssetExplanation)
    assert (found.made.sequence, found.last.sequence) == (2, 5)
    assert found.since is not None
    assert found.since.is_empty
    reader = explain(warehouse, "fine_tuned_model")
    assert isinstance(reader, AssetExplanation)
    assert reader.made.sequence == 4
