"""The asset `run_report`: the page beside the warehouse, and a version that follows content."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pytest

from assets.report import run_report
from refine_dagster.home import Home
from refine_dagster.report.page import MADE_BY
from resources.warehouse import WarehouseResource
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit


def _made(database: Path) -> tuple[str, dict[str, dg.MetadataValue]]:
    """Data version and metadata of one materialization."""
    with dg.DagsterInstance.ephemeral() as instance:
        result = dg.materialize(
            [run_report(1)],
            resources={"warehouse": WarehouseResource(database=str(database))},
            instance=instance,
        )
    [event] = result.get_asset_materialization_events()
    return (event.materialization.tags or {})["dagster/data_version"], dict(
        event.materialization.metadata
    )


@pytest.mark.slow
def test_the_page_lies_beside_the_warehouse_and_its_version_follows_content(
    tmp_path: Path,
) -> None:
    warehouse = small_warehouse(tmp_path / "warehouse.duckdb")
    records = warehouse.query("SELECT count(*) FROM lineage.materializations").item()
    version, metadata = _made(warehouse.path)
    page = Home(tmp_path).report
    assert MADE_BY in page.read_bytes()
    assert metadata["path"].value == str(page)
    assert "| Rows of the dataset | 2 |" in str(metadata["report"].value)
    assert metadata["out_of_date"].value == "none"
    assert _made(warehouse.path)[0] == version
    assert warehouse.query("SELECT count(*) FROM lineage.materializations").item() == records
    seeds = warehouse.read("seed_tasks").to_dicts()
    commit(warehouse, "seed_tasks", seeds[1:])
    assert _made(warehouse.path)[0] != version
