"""Makes the view or table of a SQL model in the warehouse, and checks what came out."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import duckdb
import polars as pl

from refine_dagster.lineage.content import canonical_json
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.sql_models.model import Check, SqlModel, SqlModelError, SqlProblem

_T = TypeVar("_T")


@dataclass(frozen=True)
class CheckResult:
    """Rows that break a check, and up to five of their values, commonest first."""

    check: Check
    failing_rows: int
    examples: tuple[str | None, ...]

    @property
    def passed(self) -> bool:
        return self.failing_rows == 0


@dataclass(frozen=True)
class ModelResult:
    """What a materialization made.

    Attributes:
        rows: number of rows.
        content_hash: hash of the rows' content and the column names and types, 64 hex digits;
            the order of the rows does not matter.
        columns: (name, DuckDB type) in order.
        preview: the first rows.
    """

    rows: int
    content_hash: str
    columns: tuple[tuple[str, str], ...]
    preview: pl.DataFrame


def materialize(warehouse: Warehouse, model: SqlModel, *, preview_rows: int = 5) -> ModelResult:
    """Make the model's view or table anew, in one transaction.

    Raises:
        SqlModelError: the query fails, for example because a model that it reads was never made.
        WarehouseError: the warehouse cannot be opened or written.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> ModelResult:
        connection.execute("BEGIN TRANSACTION")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {model.layer}")
        _drop(connection, model)
        connection.execute(f"CREATE {model.materialized.upper()} {model.relation} AS {model.query}")
        described = connection.execute(f"DESCRIBE {model.relation}").fetchall()
        columns = tuple((str(row[0]), str(row[1])) for row in described)
        _comment_on(connection, model)
        rows, content = connection.execute(
            "SELECT count(*), sha256(coalesce(string_agg(part, '' ORDER BY part), '')) FROM ("
            "SELECT sha256(CAST(to_json(model_row) AS VARCHAR)) AS part "
            f"FROM {model.relation} AS model_row)"
        ).fetchall()[0]
        preview = connection.sql(f"SELECT * FROM {model.relation} LIMIT {preview_rows}").pl()
        connection.execute("COMMIT")
        whole = canonical_json([[list(column) for column in columns], content])
        return ModelResult(rows, hashlib.sha256(whole.encode()).hexdigest(), columns, preview)

    return _with_connection(warehouse, model, work)


def run_checks(warehouse: Warehouse, model: SqlModel) -> list[CheckResult]:
    """Run the model's checks on what was last materialized.

    Raises:
        SqlModelError: the model was never materialized.
    """

    def work(connection: duckdb.DuckDBPyConnection) -> list[CheckResult]:
        return [_run_check(connection, model, check) for check in model.checks]

    return _with_connection(warehouse, model, work)


def _with_connection(
    warehouse: Warehouse, model: SqlModel, work: Callable[[duckdb.DuckDBPyConnection], _T]
) -> _T:
    with warehouse.connect() as connection:
        try:
            return work(connection)
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            told = " ".join(line.strip() for line in str(error).splitlines()[:2])
            problem = SqlProblem(model.file, 1, f"DuckDB cannot run {model.relation}: {told}")
            raise SqlModelError([problem], where=str(warehouse.path)) from error


def _drop(connection: duckdb.DuckDBPyConnection, model: SqlModel) -> None:
    """Remove what stands under the model's name, be it a view or a table."""
    standing = connection.execute(
        "SELECT table_type FROM information_schema.tables "
        "WHERE table_schema = ? AND table_name = ?",
        [model.layer, model.name],
    ).fetchall()
    for (kind,) in standing:
        connection.execute(f"DROP {'VIEW' if kind == 'VIEW' else 'TABLE'} {model.relation}")


def _comment_on(connection: duckdb.DuckDBPyConnection, model: SqlModel) -> None:
    kind = model.materialized.upper()
    connection.execute(f"COMMENT ON {kind} {model.relation} IS {_literal(model.description)}")
    for column in model.columns:
        if column.description:
            connection.execute(
                f"COMMENT ON COLUMN {model.relation}.{_identifier(column.name)} "
                f"IS {_literal(column.description)}"
            )


def _run_check(connection: duckdb.DuckDBPyConnection, model: SqlModel, check: Check) -> CheckResult:
    column = _identifier(check.column)
    having, parameters = "", list[Any]()
    if check.kind == "unique":
        condition, having = f"{column} IS NOT NULL", "HAVING count(*) > 1"
    elif check.kind == "not_null":
        condition = f"{column} IS NULL"
    else:
        marks = ", ".join("?" * len(check.accepted))
        condition, parameters = f"CAST({column} AS VARCHAR) NOT IN ({marks})", [*check.accepted]
    found = connection.execute(
        f"SELECT value, CAST(sum(rows) OVER () AS BIGINT) FROM ("
        f"SELECT CAST({column} AS VARCHAR) AS value, count(*) AS rows FROM {model.relation} "
        f"WHERE {condition} GROUP BY 1 {having}) ORDER BY rows DESC, value LIMIT 5",
        parameters,
    ).fetchall()
    return CheckResult(
        check,
        failing_rows=found[0][1] if found else 0,
        examples=tuple(value for value, _ in found),
    )


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
