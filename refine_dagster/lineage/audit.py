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
from refine_dagster.lineage.audit_ledger import (
    check_chain,
    check_checkpoints,
    check_completions,
    check_exports,
    check_registered,
)
from refine_dagster.lineage.audit_relations import check_models, check_schema
from refine_dagster.lineage.audit_rows import (
    AuditReport,
    check_history,
    check_parents,
    check_past_states,
    check_row_ids,
    check_tables,
)
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
        ("the ledger", check_chain),
        ("what is registered in the ledger", check_registered),
        ("the tables", check_tables),
        ("the history", check_history),
        ("the completions", check_completions),
        ("lineage.parents", check_parents),
        ("the checkpoints", partial(check_checkpoints, root=checkpoints_root)),
        ("the SQL models", check_models),
        ("the schema", check_schema),
    ]
    if deep:
        checks += [
            ("past states", check_past_states),
            ("row ids", check_row_ids),
            ("the exports", check_exports),
        ]
    with warehouse.connect() as connection:
        for name, check in checks:
            try:
                check(connection, report)
            except (duckdb.Error, ValueError) as error:
                # A missing table, a damaged page or text that is no JSON is itself a finding.
                report.broken(name, f"cannot be read: {first_line(error)}")
    return report
