"""The asset check `ledger_agrees_with_dagster`: two records of the same materializations."""

from __future__ import annotations

from collections.abc import Iterator

import dagster as dg
import polars as pl
import pytest

from assets.checks import disagreements
from refine_dagster.hashing import content_id
from refine_dagster.home import Home
from refine_dagster.run import RunFailedError, run_pipeline
from refine_dagster.sql_models.execution import materialize
from refine_dagster.sql_models.reading import read_models
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL

NO_RUN = "no run"


@pytest.fixture
def instance(copied_home: Home) -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.get() as instance:
        yield instance


def behind_dagsters_back(warehouse: Warehouse, asset: str, rows: pl.DataFrame | None) -> None:
    record = Record(asset, "somebody", "1", content_id("config", {}))
    warehouse.commit(record, None if rows is None else {asset: rows})


def test_the_run_itself_agreed(instance: dg.DagsterInstance) -> None:
    key = dg.AssetCheckKey(dg.AssetKey("evaluation_report"), "ledger_agrees_with_dagster")
    (execution,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=1)
    event = execution.event
    assert event is not None
    evaluation = event.asset_check_evaluation
    assert evaluation is not None
    assert evaluation.passed
    compared = evaluation.metadata["assets_compared"].value
    assert isinstance(compared, int)
    assert compared >= 12


def test_agrees_then_differs(copied_home: Home, instance: dg.DagsterInstance) -> None:
    warehouse = Warehouse(copied_home.warehouse)
    assets = warehouse.query("SELECT count(DISTINCT asset) FROM lineage.materializations").item()
    assert disagreements(instance, warehouse, NO_RUN) == ({}, assets)
    behind_dagsters_back(warehouse, "seed_tasks", None)
    differing, _ = disagreements(instance, warehouse, NO_RUN)
    assert list(differing) == ["seed_tasks"]
    assert differing["seed_tasks"].startswith("run somebody in materialization")
    rows = warehouse.read("filtered_instructions")
    behind_dagsters_back(warehouse, "filtered_instructions", rows.head(3))
    differing, _ = disagreements(instance, warehouse, NO_RUN)
    assert list(differing) == ["filtered_instructions", "seed_tasks"]
    version = warehouse.data_version("filtered_instructions")
    assert differing["filtered_instructions"].startswith(str(version))


def test_what_dagster_never_saw(copied_home: Home) -> None:
    warehouse = Warehouse(copied_home.warehouse)
    behind_dagsters_back(warehouse, "exports", frame("exports", []))
    with dg.DagsterInstance.ephemeral() as empty:
        differing, compared = disagreements(empty, warehouse, NO_RUN)
    assert len(differing) == compared > 0
    assert "exports" not in differing
    assert differing["seed_tasks"].endswith("is unknown to Dagster")


def test_the_check_stops_a_run(copied_home: Home) -> None:
    """It blocks on a foreign commit, but not where the run under way has yet to mend it."""
    warehouse = Warehouse(copied_home.warehouse)
    (model,) = [one for one in read_models() if one.name == "request_ledger"]
    materialize(warehouse, model, run_id="somebody")
    with pytest.raises(RunFailedError, match="ledger_agrees_with_dagster"):
        run_pipeline(copied_home, SMALL, select="evaluation_report")
    run_pipeline(copied_home, SMALL, select="evaluation_report or request_ledger")
    run_pipeline(copied_home, SMALL, select="evaluation_report")
