"""The audit: whether everything stored is still what was recorded when it was made.

The catalog comes first: a macro or a view that does not belong there could make every other check
say what it likes. Then comes the ledger, since the rest is compared with it. A hash chain alone
cannot show that its last links were cut off; Dagster's event log and a noted head do.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import duckdb

from refine_dagster.errors import first_line
from refine_dagster.lineage import audit_ledger, audit_rows
from refine_dagster.lineage.audit_catalog import check_catalog, check_fingerprint
from refine_dagster.lineage.audit_files import check_entries
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.warehouse.catalog import MODEL_SCHEMAS
from refine_dagster.warehouse.content import relation_content
from refine_dagster.warehouse.database import built_ins_only
from refine_dagster.warehouse.heads import NotedHead
from refine_dagster.warehouse.sql import literal, literals
from refine_dagster.warehouse.warehouse import Warehouse

Check = Callable[[duckdb.DuckDBPyConnection, AuditReport], None]


def verify(
    warehouse: Warehouse,
    checkpoints_root: Path,
    deep: bool = False,
    heads: Sequence[NotedHead] = (),
) -> AuditReport:
    """Check everything; the schema of an older version is brought up to date, nothing else changes.

    Args:
        heads: digests that the ledger had when somebody noted them.
        deep: also check every past state, the hashes of removed rows, the ids of live rows, and
            every registered checkpoint and exported file.
    """
    report = AuditReport(deep)
    with warehouse.connect(prepared=False) as connection:
        current = check_fingerprint(connection, report)
    if warehouse.read_only and not current:
        # Brought up to date by opening it.
        with Warehouse(warehouse.path).connect():
            pass
    with warehouse.connect() as connection:
        database = built_ins_only(connection)
        checks: list[tuple[str, Check]] = [
            ("the catalog", partial(check_catalog, database=database)),
            ("the ledger", audit_ledger.check_chain),
            ("noted heads", partial(audit_ledger.check_heads, heads=heads)),
            ("what is registered in the ledger", audit_ledger.check_registered),
            ("the tables", audit_rows.check_tables),
            ("the history", audit_rows.check_history),
            ("the completions", audit_ledger.check_completions),
            ("lineage.parents", audit_rows.check_parents),
            ("the checkpoints", partial(audit_ledger.check_checkpoints, root=checkpoints_root)),
            ("the checkpoints' folder", partial(check_entries, root=checkpoints_root)),
            ("the SQL models", partial(_check_models, database=database)),
        ]
        if deep:
            checks += [
                ("past states", audit_rows.check_past_states),
                ("row ids", audit_rows.check_row_ids),
                ("the exports", audit_ledger.check_exports),
            ]
        for name, check in checks:
            try:
                check(connection, report)
            except (duckdb.Error, ValueError) as error:
                # A missing table, a damaged page or text that is no JSON is itself a finding.
                report.broken(name, f"cannot be read: {first_line(error)}")
    return report


def _check_models(
    connection: duckdb.DuckDBPyConnection, report: AuditReport, database: str
) -> None:
    """The models' tables and views are those that were recorded.

    A view has no cells of its own: its query is compared.
    """
    relations = _model_relations(connection, database)
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


def _model_relations(
    connection: duckdb.DuckDBPyConnection, database: str
) -> dict[str, tuple[str, str]]:
    """Relation -> (`view` or `table`, its query) of everything in the models' schemas."""
    here = f"database_name = {literal(database)} AND schema_name IN ({literals(MODEL_SCHEMAS)})"
    rows = connection.execute(
        "SELECT schema_name || '.' || view_name, 'view', sql FROM duckdb_views() "
        f"WHERE {here} UNION ALL "
        "SELECT schema_name || '.' || table_name, 'table', '' FROM duckdb_tables() "
        f"WHERE {here}"
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
