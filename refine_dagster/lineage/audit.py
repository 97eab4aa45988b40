"""The audit: whether everything stored is still what was recorded when it was made.

The ledger comes first, since the rest is compared with it. A hash chain alone cannot show that its
last links were cut off; the asset check `ledger_agrees_with_dagster` does.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import duckdb

from refine_dagster.errors import first_line
from refine_dagster.lineage import audit_ledger, audit_rows
from refine_dagster.lineage.audit_rows import AuditReport
from refine_dagster.warehouse.content import relation_content
from refine_dagster.warehouse.database import HERE
from refine_dagster.warehouse.schema import declarations_fingerprint, new_schema
from refine_dagster.warehouse.warehouse import Warehouse

MODEL_SCHEMAS = "('staging', 'marts')"
APPLIED = "SELECT version, name FROM main.schema_migrations ORDER BY version"
Check = Callable[[duckdb.DuckDBPyConnection, AuditReport], None]


def verify(warehouse: Warehouse, checkpoints_root: Path, deep: bool = False) -> AuditReport:
    """Check everything without changing anything.

    Args:
        deep: also check every past state, the hashes of removed rows, the ids of live rows, and
            every registered checkpoint and exported file.
    """
    report = AuditReport(deep)
    checks: list[tuple[str, Check]] = [
        ("the ledger", audit_ledger.check_chain),
        ("what is registered in the ledger", audit_ledger.check_registered),
        ("the tables", audit_rows.check_tables),
        ("the history", audit_rows.check_history),
        ("the completions", audit_ledger.check_completions),
        ("lineage.parents", audit_rows.check_parents),
        ("the checkpoints", partial(audit_ledger.check_checkpoints, root=checkpoints_root)),
        ("the SQL models", _check_models),
        ("the schema", _check_schema),
    ]
    if deep:
        checks += [
            ("past states", audit_rows.check_past_states),
            ("row ids", audit_rows.check_row_ids),
            ("the exports", audit_ledger.check_exports),
        ]
    with warehouse.connect() as connection:
        for name, check in checks:
            try:
                check(connection, report)
            except (duckdb.Error, ValueError) as error:
                # A missing table, a damaged page or text that is no JSON is itself a finding.
                report.broken(name, f"cannot be read: {first_line(error)}")
    return report


def _check_models(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """The models' tables and views are those that were recorded.

    A view has no cells of its own: its query is compared.
    """
    relations = _model_relations(connection)
    records = connection.execute(
        """
        SELECT sequence, tables, config FROM (
            FROM lineage.materializations
            QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
        ) LEFT JOIN lineage.configs USING (config_hash)
        WHERE regexp_matches(tables, '^\\{"(staging|marts)\\.')
        ORDER BY sequence
        """
    ).fetchall()
    recorded = set()
    for sequence, tables, config in records:
        ((relation, content),) = json.loads(tables).items()
        model = json.loads(config or "{}")
        recorded.add(relation)
        report.looked_at("SQL models", 1)
        kind, definition = relations.get(relation, ("nothing", ""))
        materialization = f"materialization {sequence}"
        recorded_kind = model.get("materialized")
        if kind != recorded_kind:
            report.broken(relation, f"{materialization} made a {recorded_kind}, here is {kind}")
        elif kind == "table" and relation_content(connection, relation)[2] != content:
            report.broken(relation, f"its cells are not those that {materialization} made")
        elif kind == "view" and definition != _definition(connection, model["query"]):
            report.broken(relation, f"its query is not the one that {materialization} recorded")
    report.broken_each(
        (relation, "no materialization made it") for relation in sorted(relations.keys() - recorded)
    )


def _check_schema(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """The live views and those of the lineage are as a new warehouse has them."""
    known = tuple(connection.execute(APPLIED).fetchall())
    declared, migrations = _declared(declarations_fingerprint(), known)
    views = _views(connection)
    for name, definition in declared.items():
        if views.get(name) == definition:
            continue
        # A database made by another DuckDB may write the same query otherwise.
        rewritten = _rewritten(name, views.get(name))
        if rewritten != definition:
            report.broken(f"view {name}", "is not as declared" if rewritten else "is missing")
    report.looked_at("views", len(declared))
    if known != migrations:
        report.broken("main.schema_migrations", "are not the migrations of this version")


@cache
def _declared(
    fingerprint: str, applied: tuple[tuple[int, str], ...]
) -> tuple[dict[str, str], tuple[tuple[int, str], ...]]:
    """Views and migrations of a new warehouse; cached for these arguments."""
    with new_schema() as fresh:
        return _views(fresh), tuple(fresh.execute(APPLIED).fetchall())


def _model_relations(connection: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, str]]:
    """Relation -> (`view` or `table`, its query) of everything in the models' schemas."""
    rows = connection.execute(
        "SELECT schema_name || '.' || view_name, 'view', sql FROM duckdb_views() "
        f"WHERE {HERE} AND schema_name IN {MODEL_SCHEMAS} UNION ALL "
        "SELECT schema_name || '.' || table_name, 'table', '' FROM duckdb_tables() "
        f"WHERE {HERE} AND schema_name IN {MODEL_SCHEMAS}"
    ).fetchall()
    return {relation: (kind, sql.partition(" AS ")[2]) for relation, kind, sql in rows}


def _definition(connection: duckdb.DuckDBPyConnection, query: str) -> str:
    """A query as DuckDB writes that of a view."""
    connection.execute(f"CREATE OR REPLACE TEMP VIEW audited AS {query}")
    ((sql,),) = connection.execute(
        "SELECT sql FROM duckdb_views() WHERE temporary AND view_name = 'audited'"
    ).fetchall()
    connection.execute("DROP VIEW temp.audited")
    return str(sql).partition(" AS ")[2]


def _views(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Name -> text of every view and macro besides those of the models."""
    views = connection.execute(
        "SELECT schema_name || '.' || view_name, sql FROM duckdb_views() "
        f"WHERE {HERE} AND NOT internal AND NOT temporary "
        "AND schema_name IN ('main', 'lineage') ORDER BY 1"
    ).fetchall()
    macros = connection.execute(
        "SELECT schema_name || '.' || function_name, macro_definition FROM duckdb_functions() "
        f"WHERE {HERE} AND NOT internal AND schema_name IN ('main', 'lineage') "
        "AND function_type IN ('macro', 'table_macro') ORDER BY 1"
    ).fetchall()
    return dict([*views, *macros])


def _rewritten(name: str, definition: str | None) -> str | None:
    """A view's text as this version of DuckDB writes it; None where there is no view."""
    if definition is None or not definition.startswith("CREATE VIEW"):
        return definition
    with new_schema() as fresh:
        fresh.execute(f"DROP VIEW {name}")
        try:
            fresh.execute(definition)
        except duckdb.Error:
            return definition
        return _views(fresh).get(name)
