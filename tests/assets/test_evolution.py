"""The evolution's assets where no model is needed: switched off, or with a policy that is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse
from tests.builders.small_warehouse import small_warehouse

pytestmark = pytest.mark.slow

BOTH = "instructor_policy or evolved_instructions"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home whose base model has a row and no files: loading it would fail."""
    home = Home(tmp_path / "home")
    home.root.mkdir()
    small_warehouse(home.warehouse)
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    return home


def test_switched_off_both_are_empty_and_no_model_is_loaded(home: Home) -> None:
    config = {"teams_rl.algorithm": "random", "device.device": "cpu"}
    run_pipeline(home, "offline", config, "instructor_policy")
    warehouse = Warehouse(home.warehouse)
    (row,) = warehouse.read("instructor_policy").to_dicts()
    assert (row["algorithm"], row["checkpoint_hash"], row["ended_by"]) == ("random", None, None)
    assert (row["seeds"], row["updates"], row["rewrite_calls"]) == (0, 0, 0)

    run_pipeline(home, "offline", {"teams_rl.evolved_seeds": 0}, BOTH)
    for table in ("instructor_policy", "instructor_policy_steps", "evolved_instructions"):
        assert warehouse.read(table).is_empty()
    last = warehouse.query(
        "SELECT asset, rows_removed, requests_asked FROM lineage.materializations "
        "ORDER BY sequence DESC LIMIT 2"
    )
    assert sorted(last.rows()) == [("evolved_instructions", 0, 0), ("instructor_policy", 1, 0)]
    assert warehouse.query("SELECT count(*) FROM lineage.checkpoints").item() == 0
