"""Promise 2: a removed seed leaves no live descendant; history and checkpoints still tell of it."""

from __future__ import annotations

import pytest

from refine_dagster.home import Home
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import Edited

DESCENDANTS = """
    SELECT DISTINCT r.table_name, r.row_id, r.removed_in
    FROM lineage.descendants_of(?) AS d JOIN lineage.rows AS r ON r.row_id = d.descendant_id
"""


@pytest.mark.slow
def test_retraction(tiny_home: Home, edited: Edited) -> None:
    seed_id, row_id = edited.removed
    former, warehouse = Warehouse(tiny_home.warehouse), Warehouse(edited.home.warehouse)
    before = former.query("SELECT max(sequence) FROM lineage.materializations").item()
    touched = former.query(DESCENDANTS, [row_id])
    assert touched["removed_in"].null_count() == touched.height > 0
    assert {
        "raw_instructions",
        "instruction_dataset",
        "fine_tuned_model",
        "evaluation_report",
        "privacy_report",
    } <= {*touched["table_name"]}

    # Nothing live descends from it, by the recorded edges and by the parents in the rows.
    after = warehouse.query(DESCENDANTS, [row_id])
    assert after.filter(after["removed_in"].is_null()).is_empty()
    removed = {row_id, *after["row_id"]}
    for name in (one.name for one in warehouse.slices()):
        for row in warehouse.read(name).iter_rows(named=True):
            assert row["row_id"] not in removed
            assert not removed & {parent["row_id"] for parent in row["parents"]}, name
    # History shows what it had touched, as of any time before.
    assert set(touched["row_id"]) <= set(after["row_id"])
    assert seed_id in set(warehouse.read("seed_tasks", as_of=before)["seed_id"])
    # Checkpoints trained on it are named, and no live model is one of them.
    held = warehouse.query(
        "SELECT c.asset, c.content_hash FROM lineage.checkpoints AS c "
        "JOIN history.fine_tuned_model AS m ON m.checkpoint_hash = c.content_hash "
        "WHERE m.removed_in IS NOT NULL"
    )
    assert held.height == 1
    live = warehouse.read("fine_tuned_model")["checkpoint_hash"].item()
    assert held["content_hash"].item() != live
