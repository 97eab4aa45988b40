"""Explanations by name: an asset or table, or a row by its id."""

from __future__ import annotations

from refine_dagster.errors import RefineError
from refine_dagster.lineage.asset_explanation import AssetExplanation, explain_asset
from refine_dagster.lineage.row_explanation import RowExplanation, explain_row
from refine_dagster.lineage.row_lookup import find_row, is_prefix
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.timeline import Timeline
from refine_dagster.lineage.warehouse import Warehouse


class ExplainError(RefineError):
    """There is no such asset to explain."""


def explain(warehouse: Warehouse, name: str) -> AssetExplanation | RowExplanation:
    """Explain an asset or table by its name, or a row by its id or the start of it.

    Raises:
        ExplainError: the name is neither, or the asset was never materialised.
        RowError: no row has that id, or several rows have.
    """
    assets = dict.fromkeys(table.asset for table in TABLES.values())
    asset = TABLES[name].asset if name in TABLES else name
    if asset not in assets and not is_prefix(name):
        raise ExplainError(
            f"{name!r} is no asset and no row id",
            fix="give a row_id or at least its first digits (`refine-dagster show TABLE` prints "
            f"them), or an asset: {', '.join(assets)}",
        )
    with warehouse.connect() as connection:
        timeline = Timeline(connection)
        if asset not in assets:
            row = find_row(connection, name)
            return explain_row(connection, timeline, row.table, row.row_id)
        if asset not in timeline.assets():
            raise ExplainError(
                f"{asset} was never materialised", fix=f"refine-dagster run --select {asset}"
            )
        return explain_asset(connection, timeline, asset)
