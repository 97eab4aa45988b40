"""SQL models as Dagster assets: keys, dependencies, metadata, versions and blocking checks."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import dagster as dg
import pytest

from assets.marts import sql_model_assets
from refine_dagster.sql_models.reading import read_models
from refine_dagster.warehouse.rows import Parent, make_row
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from resources.warehouse import WarehouseResource
from tests.builders.small_warehouse import small_warehouse
from tests.builders.warehouse import commit


@pytest.fixture(scope="module")
def marts() -> list[dg.AssetsDefinition]:
    return sql_model_assets()


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small warehouse's file; tests may add to it, never take away."""
    return small_warehouse(tmp_path_factory.mktemp("marts") / "warehouse.duckdb").path


@pytest.fixture(scope="module")
def first(marts: list[dg.AssetsDefinition], database: Path) -> dg.ExecuteInProcessResult:
    """The run that makes every model for the first time."""
    return _run(marts, database)


def _run(
    marts: list[dg.AssetsDefinition],
    database: Path,
    *,
    only: Collection[str] | None = None,
    raise_on_error: bool = True,
) -> dg.ExecuteInProcessResult:
    chosen = [one for one in marts if only is None or one.key.to_user_string() in only]
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize(
            chosen,
            resources={"warehouse": WarehouseResource(database=str(database))},
            instance=instance,
            raise_on_error=raise_on_error,
        )


def _versions(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    return {
        event.asset_key.to_user_string(): (event.materialization.tags or {})["dagster/data_version"]
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_definitions_follow_the_files(marts: list[dg.AssetsDefinition]) -> None:
    models = {model.name: model for model in read_models()}
    specs = {asset.key.to_user_string(): asset for asset in marts}
    assert set(specs) == set(models)
    for name, model in models.items():
        (spec,) = specs[name].specs
        assert spec.group_name == "marts"
        assert spec.kinds == {"duckdb", "sql"}
        assert list(spec.owners) == ["team:data"]
        assert spec.tags["layer"] == model.layer
        assert spec.description == model.description
        assert spec.code_version == model.version
        assert {dep.asset_key.to_user_string() for dep in spec.deps} == set(model.depends_on)
        checks = {check.name: check for check in specs[name].check_specs}
        assert set(checks) == {check.name for check in model.checks}
        assert all(check.blocking for check in checks.values())
    known = {table.asset for table in TABLES.values()} | set(models)
    assert {name for model in models.values() for name in model.depends_on} <= known


@pytest.mark.slow
def test_second_run_leaves_every_version(
    marts: list[dg.AssetsDefinition], database: Path, first: dg.ExecuteInProcessResult
) -> None:
    versions = _versions(first)
    assert len(versions) == len(marts)
    warehouse = Warehouse(database)
    for asset in ("seed_tasks", "filtered_instructions"):
        commit(warehouse, asset, {asset: warehouse.read(asset).to_dicts()})
    assert _versions(_run(marts, database)) == versions


@pytest.mark.slow
def test_removed_seed_changes_what_reads_it_and_no_more(
    marts: list[dg.AssetsDefinition], tmp_path: Path
) -> None:
    database = tmp_path / "warehouse.duckdb"
    warehouse = small_warehouse(database)
    read = {"stg_seed_tasks", "stg_base_scored_instructions", "stg_instruction_dataset",
            "dataset_profile", "stg_filtered_instructions"}  # fmt: skip
    before = _versions(_run(marts, database, only=read))
    assert set(before) == read
    seeds = warehouse.read("seed_tasks").to_dicts()
    commit(warehouse, "seed_tasks", {"seed_tasks": seeds[1:]})
    after = _versions(_run(marts, database, only=read))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"stg_seed_tasks", "dataset_profile"}


@pytest.mark.slow
def test_metadata(first: dg.ExecuteInProcessResult) -> None:
    (event,) = [
        event
        for event in first.get_asset_materialization_events()
        if event.asset_key == dg.AssetKey("stg_instance_decisions")
    ]
    metadata = event.materialization.metadata
    assert metadata["dagster/row_count"].value == 3
    schema = metadata["dagster/column_schema"].value
    assert isinstance(schema, dg.TableSchema)
    columns = {column.name: (column.type, column.description) for column in schema.columns}
    assert columns["reward"] == ("DOUBLE", TABLES["instance_decisions"].columns["reward"][1])
    assert columns["output_words"] == ("BIGINT", "Words of the output.")
    lineage = metadata["dagster/column_lineage"].value
    assert isinstance(lineage, dg.TableColumnLineage)
    assert list(lineage.deps_by_column["output_words"]) == [
        dg.TableColumnDep(
            asset_key=dg.AssetKey("instruction_dataset"), column_name="instance_decisions.output"
        )
    ]
    shown = metadata["column_lineage"].value
    assert "| output_words | main.instance_decisions.output |" in str(shown)
    assert "FROM main.instance_decisions" in str(metadata["query"].value)
    assert "Count the letters" in str(metadata["preview"].value)


@pytest.mark.slow
def test_failed_check_blocks_what_comes_after(
    marts: list[dg.AssetsDefinition], tmp_path: Path
) -> None:
    database = tmp_path / "warehouse.duckdb"
    warehouse = small_warehouse(database)
    candidates = warehouse.read("raw_instructions").to_dicts()
    payload = {name: candidates[0][name] for name in TABLES["raw_instructions"].columns}
    parents = [Parent(**one) for one in candidates[0]["parents"]]
    candidates[0] = make_row("raw_instructions", {**payload, "method": "guessing"}, parents)
    commit(warehouse, "raw_instructions", {"raw_instructions": candidates})
    funnel = {"stg_raw_instructions", "stg_instruction_decisions", "stg_filtered_instructions",
              "stg_reward_scored_instructions", "stg_instance_decisions", "yield_funnel",
              "funnel_balance"}  # fmt: skip
    result = _run(marts, database, only=funnel, raise_on_error=False)
    assert not result.success
    failed = {
        one.check_name: one.metadata["examples"].value
        for one in result.get_asset_check_evaluations()
        if not one.passed
    }
    assert failed == {"accepted_method": "guessing"}
    assert set(_versions(result)) == funnel - {"yield_funnel", "funnel_balance"}


@pytest.mark.slow
def test_missing_upstream_is_told_without_a_traceback(
    marts: list[dg.AssetsDefinition], tmp_path: Path
) -> None:
    database = tmp_path / "warehouse.duckdb"
    result = _run(marts, database, only={"request_ledger"}, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    told = str(failure.step_failure_data.user_failure_data)
    assert "marts/request_ledger.sql:1" in told
    assert "stg_completions" in told
