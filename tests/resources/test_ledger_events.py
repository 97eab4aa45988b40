"""Dagster's event log as a second record of the ledger: rollback and truncation show."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from refine_dagster.warehouse.heads import WitnessError
from refine_dagster.warehouse.ledger import Commit
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.warehouse import Warehouse
from resources.ledger_events import (
    DATA_VERSION,
    DIGEST,
    SEQUENCE,
    contradicted,
    last_logged_entry,
    logged_entries,
    require_ledger_of,
)
from resources.warehouse import WarehouseResource
from tests.builders.rows import seed_row
from tests.builders.warehouse import commit, new_warehouse

ASSET = "seed_tasks"


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return new_warehouse(tmp_path / "warehouse.duckdb")


def seeds(warehouse: Warehouse, text: str) -> Commit:
    # An event outside a run has the run id "".
    return commit(warehouse, ASSET, [seed_row("s", text)], run_id="")


def told(instance: dg.DagsterInstance, made: Commit, **other: Any) -> None:
    """Dagster's event of a commit, as a step reports it."""
    metadata = {SEQUENCE: made.sequence, DIGEST: made.digest, **other}
    known = {name: value for name, value in metadata.items() if value is not None}
    tags = {DATA_VERSION: made.data_version}
    instance.report_runless_asset_event(dg.AssetMaterialization(ASSET, metadata=known, tags=tags))


def found(warehouse: Warehouse, instance: dg.DagsterInstance) -> list[tuple[int, str]]:
    differing = contradicted(warehouse, list(logged_entries(instance)))
    return [(entry.sequence, what) for entry, what in differing]


def test_the_ledger_of_the_log(warehouse: Warehouse, instance: dg.DagsterInstance) -> None:
    require_ledger_of(instance, warehouse)
    for text in ("one", "two", "three"):
        told(instance, seeds(warehouse, text))
    commit(warehouse, "exports", [])
    assert found(warehouse, instance) == []
    last = last_logged_entry(instance)
    assert last is not None
    assert last.sequence == 3
    require_ledger_of(instance, warehouse)


@pytest.mark.parametrize("with_digest", [True, False])
def test_an_older_database_is_found_also_after_a_full_run(
    warehouse: Warehouse, instance: dg.DagsterInstance, with_digest: bool
) -> None:
    told(instance, seeds(warehouse, "one"))
    older = warehouse.path.read_bytes()
    other: dict[str, Any] = {} if with_digest else {DIGEST: None}
    told(instance, seeds(warehouse, "two"), **other)
    warehouse.path.write_bytes(older)
    assert found(warehouse, instance) == [(2, "is not in the ledger")]
    with pytest.raises(WarehouseError, match="the database is older than Dagster's event log"):
        require_ledger_of(instance, warehouse)
    told(instance, seeds(warehouse, "another two"), **other)
    told(instance, seeds(warehouse, "three"), **other)
    require_ledger_of(instance, warehouse)
    assert [sequence for sequence, _ in found(warehouse, instance)] == [2]


def test_entries_written_anew_have_other_digests(
    warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    told(instance, seeds(warehouse, "one"))
    warehouse.path.unlink()
    seeds(warehouse, "one")
    assert found(warehouse, instance) == [(1, "has another digest in the ledger")]


def test_a_home_without_its_database_is_not_begun_anew(
    warehouse: Warehouse, instance: dg.DagsterInstance
) -> None:
    told(instance, seeds(warehouse, "one"))
    warehouse.path.unlink()
    with pytest.raises(WarehouseError, match="the database is gone, though Dagster's event log"):
        require_ledger_of(instance, warehouse)
    assert not warehouse.path.exists()


def witnessing(warehouse: Warehouse, witness: Path) -> Any:
    resource = WarehouseResource(database=str(warehouse.path), witness=str(witness))
    return resource._witnessing("a run")


def test_each_run_appends_its_head_to_the_witness(warehouse: Warehouse, tmp_path: Path) -> None:
    witness = tmp_path / "witness.jsonl"
    digests = []
    for text in ("one", "two"):
        with witnessing(warehouse, witness):
            digests.append(seeds(warehouse, text).digest)
    digests.append(seeds(warehouse, "three").digest)
    with pytest.raises(KeyError), witnessing(warehouse, witness):
        raise KeyError
    lines = [json.loads(line) for line in witness.read_text().splitlines()]
    assert [line["digest"] for line in lines] == digests
    assert [line["sequence"] for line in lines] == [1, 2, 3]
    assert {(line["first"], line["home"], line["run"]) for line in lines} == {
        (digests[0], str(tmp_path), "a run")
    }


def test_a_witness_that_cannot_be_written_stops_the_run_first(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    with (
        pytest.raises(WitnessError, match="cannot be written"),
        witnessing(warehouse, tmp_path / "no folder" / "witness"),
    ):
        raise AssertionError
