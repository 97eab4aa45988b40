"""The audit: whether everything stored is still what was recorded when it was made.

The ledger comes first, since the rest is compared with it. A hash chain alone cannot show that its
last links were cut off; the asset check `ledger_agrees_with_dagster` does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb

from refine_dagster.errors import first_line
from refine_dagster.lineage import audit_ledger, audit_relations, audit_rows
from refine_dagster.lineage.audit_rows import AuditReport
from refine_dagster.warehouse.warehouse import Warehouse

Check = Callable[[duckdb.DuckDBPyConnection, AuditReport], None]


def verify(warehouse: Warehouse, checkpoints_root: Path, deep: bool = False) -> AuditReport:
    """Check everything without changing anything.

    Args:
        deep: also check every past state, the hashes of removed rows, the ids of live rows, and
            every registered checkpoint and exported file.

    Raises:
        WarehouseError: the database cannot be opened.
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
        ("the SQL models", audit_relations.check_models),
        ("the schema", audit_relations.check_schema),
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
