"""What the last run changed: rows by cause, and figures before and after it."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb

from refine_dagster.lineage.diff import difference
from refine_dagster.report.table import Table, written
from refine_dagster.warehouse.ledger import MIGRATION, PRUNE
from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.tables import EXPORTS
from refine_dagster.warehouse.warehouse import Warehouse

LISTED = 30


@dataclass(frozen=True)
class Changes:
    """What the last run changed.

    Attributes:
        before: the last materialization before that run; 0 if it was the first.
        missing: why there is no comparison; None where there is one.
    """

    run_id: str
    before: int
    rows: Table | None
    figures: Table | None
    missing: str | None


def read_changes(warehouse: Warehouse) -> Changes | None:
    """The last run against the state before it; None before the first run."""
    runs = warehouse.query(
        "SELECT run_id, min(sequence) AS first, max(sequence) AS last "
        "FROM lineage.materializations WHERE asset NOT IN (?, ?) AND NOT starts_with(run_id, ?) "
        "GROUP BY run_id ORDER BY last DESC LIMIT 1",
        [EXPORTS, PRUNE, MIGRATION],
    ).rows()
    if not runs:
        return None
    run_id, first, last = runs[0]
    before = first - 1
    with warehouse.connect() as connection:
        figures = _figures(connection, before)
    if before == 0:
        return Changes(run_id, 0, None, None, "This is the first run.")
    try:
        found = difference(warehouse, before, last)
    except WarehouseError as error:
        return Changes(run_id, before, None, figures, str(error))
    rows = [
        (group.table, group.added, group.removed, group.changed, found.label(group.reasons))
        for group in found.groups
    ]
    left = len(rows) - LISTED
    more = f"; {written(left)} smaller groups are not shown" if left > 0 else ""
    table = Table.of(
        f"Rows of one table that changed for one reason{more}",
        ("table", "added", "removed", "changed", "because of"),
        rows[:LISTED],
    )
    nothing = None if rows else "No row changed."
    return Changes(run_id, before, table if rows else None, figures, nothing)


def _figures(connection: duckdb.DuckDBPyConnection, before: int) -> Table | None:
    """Recorded figures of assets that differ from those of the state before."""
    newest = (
        "SELECT asset, metrics FROM lineage.materializations WHERE metrics <> '{{}}' {0} "
        "QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1"
    )
    rows = connection.execute(
        f"SELECT asset, old.metrics, new.metrics FROM ({newest.format('')}) AS new "
        f"JOIN ({newest.format('AND sequence <= ?')}) AS old USING (asset) "
        "WHERE old.metrics <> new.metrics ORDER BY asset",
        [before],
    ).fetchall()
    changed = []
    for asset, old, new in rows:
        was, now = json.loads(old), json.loads(new)
        for name in sorted(was.keys() & now.keys()):
            if was[name] != now[name] and not isinstance(now[name], bool):
                changed.append((asset, name, written(was[name]), written(now[name])))
    if not changed:
        return None
    return Table.of(
        "One figure that the run changed", ("asset", "figure", "before", "now"), changed
    )
