"""Takes back what policy rounds made that the graph no longer has.

With the config field `rounds` lowered, no asset is left that would replace the rows of the rounds
beyond: a removed seed would keep live descendants there for ever. So the first step of a run under
the lower number empties those tables, by an ordinary commit each: history keeps the rows, the
ledger tells when and why, completions and checkpoints stay. With the config field raised again, the
rounds are made anew from what is stored.
"""

from __future__ import annotations

from refine_dagster.hashing import content_id
from refine_dagster.warehouse.ledger import Record
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.tables import assets_beyond, tables_of
from refine_dagster.warehouse.warehouse import Warehouse

# The code version of a record that takes rows back.
RETIRED = "retired"


def retire_rounds_beyond(warehouse: Warehouse, rounds: int, run_id: str) -> list[str]:
    """Empty the tables of all policy rounds after `rounds`; the assets whose rows were taken back.

    Args:
        rounds: how many the graph has.
        run_id: Dagster's run.

    Raises:
        WarehouseError: the warehouse cannot be opened or written.
    """
    beyond = assets_beyond(rounds)
    if not beyond:
        return []
    # Asked at every step: whether a view has a row costs nothing, however long the history is.
    alive = set(
        warehouse.query(
            " UNION ALL ".join(
                f"SELECT '{asset}' AS asset WHERE EXISTS (FROM main.{table.name})"
                for asset in beyond
                for table in tables_of(asset)
            )
        )["asset"]
    )
    config = {"rounds": rounds}
    # From the last one up: nothing that is live is left without what it was made from.
    retired = [asset for asset in reversed(beyond) if asset in alive]
    for asset in retired:
        record = Record(
            asset=asset,
            run_id=run_id,
            code_version=RETIRED,
            config_hash=content_id("config", config),
            config=config,
        )
        empty = {table.name: frame(table.name, []) for table in tables_of(asset)}
        warehouse.commit(record, empty)
    return retired
