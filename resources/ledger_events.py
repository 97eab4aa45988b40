"""What Dagster's event log says of the ledger.

Each materialization event names its entry in the ledger and the entry's digest, which stands for
every entry before it. So Dagster's log is a second record: of an older database put in place of a
newer one, or of entries cut off, the log has events that the ledger contradicts.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg

from refine_dagster.warehouse.schema import WarehouseError
from refine_dagster.warehouse.warehouse import Warehouse

# Metadata of a materialization event; and the tag in which Dagster keeps its data version.
SEQUENCE = "sequence"
DIGEST = "ledger_digest"
DATA_VERSION = "dagster/data_version"
_AT_ONCE = 1000


@dataclass(frozen=True)
class LoggedEntry:
    """An entry of the ledger as a materialization event names it.

    Attributes:
        digest: None in events of versions that did not write it.
    """

    sequence: int
    asset: str
    run_id: str
    data_version: str | None
    digest: str | None

    def __str__(self) -> str:
        return f"materialization {self.sequence} ({self.asset}) of run {self.run_id}"


def logged_entries(instance: dg.DagsterInstance) -> Iterator[LoggedEntry]:
    """Every entry that Dagster's event log has."""
    for key in instance.all_asset_keys():
        cursor, more = None, True
        while more:
            page = instance.fetch_materializations(key, limit=_AT_ONCE, cursor=cursor)
            for record in page.records:
                yield from _entry(record.asset_materialization, record.run_id)
            cursor, more = page.cursor, page.has_more


def last_logged_entry(instance: dg.DagsterInstance) -> LoggedEntry | None:
    """The entry of the last event of all assets that has the highest number."""
    entries = [
        entry
        for record in instance.get_asset_records()
        for event in [record.asset_entry.last_materialization]
        if event is not None
        for entry in _entry(event.asset_materialization, event.run_id)
    ]
    return max(entries, key=lambda entry: entry.sequence, default=None)


def contradicted(warehouse: Warehouse, logged: list[LoggedEntry]) -> list[tuple[LoggedEntry, str]]:
    """The entries of Dagster's log that the ledger lacks or has otherwise, and how."""
    rows = warehouse.query(
        "SELECT sequence, asset, run_id, data_version, digest FROM lineage.materializations "
        "WHERE list_contains(?, sequence)",
        [sorted({entry.sequence for entry in logged})],
    ).rows()
    ledger = {row[0]: row[1:] for row in rows}
    differing = []
    for entry in sorted(logged, key=lambda entry: entry.sequence):
        held = ledger.get(entry.sequence)
        if held is None:
            differing.append((entry, "is not in the ledger"))
        elif held[:3] != (entry.asset, entry.run_id, entry.data_version):
            differing.append((entry, f"is {held[0]} of run {held[1]} in the ledger"))
        elif entry.digest not in (None, held[3]):
            differing.append((entry, "has another digest in the ledger"))
    return differing


def require_ledger_of(instance: dg.DagsterInstance, warehouse: Warehouse) -> None:
    """Refuse to go on from a ledger that lacks what Dagster's log says was done last.

    Raises:
        WarehouseError: the database is gone, older than the log, or another.
    """
    last = last_logged_entry(instance)
    if last is None:
        return
    if not warehouse.path.exists():
        what = f"the database is gone, though Dagster's event log has {last}"
    elif contradicted(warehouse, [last]):
        what = f"the database is older than Dagster's event log, or another: the log has {last}"
    else:
        return
    raise WarehouseError(
        what,
        where=str(warehouse.path),
        fix="put the home's own database back; to begin anew, or to go on from this database, "
        f"move Dagster's folder away: {warehouse.path.parent / 'dagster'}",
    )


def _entry(made: dg.AssetMaterialization | None, run_id: str) -> Iterator[LoggedEntry]:
    if made is None or SEQUENCE not in made.metadata:
        return
    digest: Any = made.metadata[DIGEST].value if DIGEST in made.metadata else None
    sequence: Any = made.metadata[SEQUENCE].value
    version = (made.tags or {}).get(DATA_VERSION)
    yield LoggedEntry(int(sequence), made.asset_key.to_user_string(), run_id, version, digest)
