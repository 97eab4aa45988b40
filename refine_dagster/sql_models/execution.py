"""Makes the view or table of a SQL model in the warehouse, records it, and checks it.

The ledger row is written in the transaction that makes the model. Its inputs are the assets and
models that the query reads; the ledger and the completions store have no versions and do not count.
Its config holds the query, so that the ledger keeps every version of it. A model is replaced as a
whole: its rows count as added where its content changed, and as reused where it did not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import duckdb
import polars as pl

from refine_dagster.hashing import content_id
from refine_dagster.sql_models.model import LAYERS, Check, SqlModel, SqlModelError, SqlProblem
from refine_dagster.warehouse.content import relation_content
from refine_dagster.warehouse.ledger import Commit, Record, next_link, write_record
from refine_dagster.warehouse.sql import identifier, literal
from refine_dagster.warehouse.tables import tables_of
from refine_dagster.warehouse.warehouse import Warehouse


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
    """The result of a materialization.

    Attributes:
        content_hash: as of `warehouse.content.relation_content`.
        columns: (name, DuckDB type) in order.
        sequence, digest: place of its record in the ledger, and the record's digest.
    """

    rows: int
    content_hash: str
    columns: tuple[tuple[str, str], ...]
    preview: pl.DataFrame
    sequence: int
    digest: str


def materialize(
    warehouse: Warehouse, model: SqlModel, *, run_id: str | None = None, preview_rows: int = 5
) -> ModelResult:
    """Replace the model's view or table and record it, in one transaction.

    Args:
        run_id: Dagster's run; None makes one up.

    Raises:
        SqlModelError: the query fails, for example because a model that it reads was never made.
    """
    started_at = datetime.now(UTC)
    with _connected(warehouse, model) as connection:
        connection.execute("BEGIN TRANSACTION")
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {model.layer}")
        _drop(connection, model)
        connection.execute(f"CREATE {model.materialized.upper()} {model.relation} AS {model.query}")
        _comment_on(connection, model)
        columns, rows, content = relation_content(connection, model.relation)
        preview = connection.sql(f"SELECT * FROM {model.relation} LIMIT {preview_rows}").pl()
        config = {"materialized": model.materialized, "query": model.query}
        record = Record(
            asset=model.name,
            run_id=run_id or f"sql-{uuid4()}",
            code_version=model.version,
            config_hash=content_id("config", config),
            inputs=_inputs(connection, model),
            config=config,
            started_at=started_at,
        )
        commit, previous = _next_commit(connection, model, rows, content)
        hashes = {model.relation: content}
        digest = write_record(connection, record, commit, hashes, (), previous)
        connection.execute("COMMIT")
        return ModelResult(rows, content, columns, preview, commit.sequence, digest)


def run_checks(warehouse: Warehouse, model: SqlModel) -> list[CheckResult]:
    """Run the model's checks on what was last materialized.

    Raises:
        SqlModelError: the model was never materialized.
    """
    with _connected(warehouse, model) as connection:
        return [_run_check(connection, model, check) for check in model.checks]


@contextmanager
def _connected(warehouse: Warehouse, model: SqlModel) -> Iterator[duckdb.DuckDBPyConnection]:
    with warehouse.connect() as connection:
        try:
            yield connection
        except (duckdb.ProgrammingError, duckdb.DataError) as error:
            message = " ".join(line.strip() for line in str(error).splitlines()[:2])
            problem = SqlProblem(model.file, 1, f"DuckDB cannot run {model.relation}: {message}")
            raise SqlModelError([problem], where=str(warehouse.path)) from error


def _inputs(connection: duckdb.DuckDBPyConnection, model: SqlModel) -> dict[str, str]:
    """The latest data version of each asset and model that the query reads."""
    reads = [relation.split(".") for relation in model.reads]
    tables = {name for schema, name in reads if schema in ("main", "history")}
    models = {name for schema, name in reads if schema in LAYERS}
    found = connection.execute(
        "SELECT asset, arg_max(data_version, sequence) FROM lineage.materializations GROUP BY asset"
    ).fetchall()
    return {
        asset: version
        for asset, version in found
        if asset in models or any(owned.table.name in tables for owned in tables_of(asset))
    }


def _next_commit(
    connection: duckdb.DuckDBPyConnection, model: SqlModel, rows: int, content: str
) -> tuple[Commit, str]:
    """The ledger's figures of the replaced model, and the digest that its row is linked to."""
    sequence, previous = next_link(connection)
    last = connection.execute(
        "SELECT data_version, rows_total FROM lineage.materializations "
        "WHERE asset = ? ORDER BY sequence DESC LIMIT 1",
        [model.name],
    ).fetchall()
    stayed = bool(last) and last[0][0] == content
    commit = Commit(
        sequence=sequence,
        data_version=content,
        rows_total=rows,
        rows_added=0 if stayed else rows,
        rows_removed=last[0][1] if last and not stayed else 0,
        rows_reused=rows if stayed else 0,
    )
    return commit, previous


def _drop(connection: duckdb.DuckDBPyConnection, model: SqlModel) -> None:
    standing = connection.execute(
        "SELECT table_type FROM information_schema.tables "
        "WHERE table_catalog = current_database() AND table_schema = ? AND table_name = ?",
        [model.layer, model.name],
    ).fetchall()
    for (kind,) in standing:
        connection.execute(f"DROP {'VIEW' if kind == 'VIEW' else 'TABLE'} {model.relation}")


def _comment_on(connection: duckdb.DuckDBPyConnection, model: SqlModel) -> None:
    kind = model.materialized.upper()
    connection.execute(f"COMMENT ON {kind} {model.relation} IS {literal(model.description)}")
    for column in model.columns:
        if column.description:
            connection.execute(
                f"COMMENT ON COLUMN {model.relation}.{identifier(column.name)} "
                f"IS {literal(column.description)}"
            )


def _run_check(connection: duckdb.DuckDBPyConnection, model: SqlModel, check: Check) -> CheckResult:
    column = identifier(check.column)
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
