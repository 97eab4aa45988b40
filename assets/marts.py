"""The SQL models of `dbt_like_sql/` as assets: views of each dataset, and the marts over them.

The engine reads, runs and checks the models; here each becomes one asset, with its dependencies,
documentation, column lineage and blocking checks taken from the SQL file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.preview import markdown_table
from refine_dagster.errors import RefineError
from refine_dagster.sql_models.execution import CheckResult, ModelResult, materialize, run_checks
from refine_dagster.sql_models.model import Check, SqlModel
from refine_dagster.sql_models.reading import MODELS_FOLDER, read_models
from resources.ledger_events import DIGEST, SEQUENCE
from resources.warehouse import WarehouseResource

_MEANING = {
    "unique": "No value of `{column}` occurs twice.",
    "not_null": "`{column}` has a value in every row.",
    "accepted": "`{column}` is one of {accepted}.",
}


def sql_model_assets(folder: Path = MODELS_FOLDER, rounds: int = 1) -> list[dg.AssetsDefinition]:
    """One asset for each SQL model of a graph of so many policy rounds, in order.

    Raises:
        SqlModelError: with every problem of the files.
    """
    return [_sql_model_asset(model) for model in read_models(folder, rounds)]


def _sql_model_asset(model: SqlModel) -> dg.AssetsDefinition:
    @dg.asset(
        name=model.name,
        description=model.description,
        deps=list(model.depends_on),
        group_name="marts",
        kinds={"duckdb", "sql"},
        owners=["team:data"],
        tags={"layer": model.layer},
        code_version=model.version,
        check_specs=[
            dg.AssetCheckSpec(
                check.name, asset=model.name, blocking=True, description=_meaning(check)
            )
            for check in model.checks
        ],
    )
    def sql_model(
        context: dg.AssetExecutionContext, warehouse: WarehouseResource
    ) -> Iterator[dg.MaterializeResult[Any]]:
        try:
            opened = warehouse.open()
            with opened.held():
                made = materialize(opened, model, run_id=context.run.run_id)
                checked = run_checks(opened, model)
        except RefineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        yield dg.MaterializeResult(
            metadata=_metadata(model, made),
            data_version=dg.DataVersion(made.content_hash),
            check_results=[_check_result(result) for result in checked],
        )

    return sql_model


def _meaning(check: Check) -> str:
    accepted = ", ".join(f"`{value}`" for value in check.accepted)
    return _MEANING[check.kind].format(column=check.column, accepted=accepted)


def _metadata(model: SqlModel, made: ModelResult) -> dict[str, Any]:
    described = {column.name.lower(): column.description for column in model.columns}
    origins = {column.name: column.origins for column in model.columns}
    table = pl.DataFrame(
        {
            "column": list(origins),
            "comes from": [
                ", ".join(f"{origin.relation}.{origin.column}" for origin in sources) or "-"
                for sources in origins.values()
            ],
        }
    )
    return {
        "dagster/row_count": made.rows,
        "dagster/column_schema": dg.TableSchema(
            [
                dg.TableColumn(name, kind, description=described.get(name.lower()) or None)
                for name, kind in made.columns
            ]
        ),
        "dagster/column_lineage": _column_lineage(model),
        "dagster/relation_identifier": model.relation,
        "column_lineage": dg.MetadataValue.md(markdown_table(table)),
        "preview": dg.MetadataValue.md(markdown_table(made.preview)),
        "query": dg.MetadataValue.md(f"```sql\n{model.query}\n```"),
        "materialized": model.materialized,
        SEQUENCE: made.sequence,
        DIGEST: made.digest,
    }


def _column_lineage(model: SqlModel) -> dg.TableColumnLineage:
    """Origins that are assets; a column of an asset's second table is named `table.column`."""
    return dg.TableColumnLineage(
        {
            column.name: [
                dg.TableColumnDep(
                    asset_key=dg.AssetKey(origin.asset),
                    column_name=origin.column
                    if origin.relation.split(".")[1] == origin.asset
                    else f"{origin.relation.split('.')[1]}.{origin.column}",
                )
                for origin in column.origins
                if origin.asset is not None
            ]
            for column in model.columns
        }
    )


def _check_result(result: CheckResult) -> dg.AssetCheckResult:
    metadata: dict[str, int | str] = {"failing_rows": result.failing_rows}
    if result.examples:
        metadata["examples"] = ", ".join(
            "null" if value is None else value for value in result.examples
        )
    return dg.AssetCheckResult(
        check_name=result.check.name,
        passed=result.passed,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata=metadata,
    )
