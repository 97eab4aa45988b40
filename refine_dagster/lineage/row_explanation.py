"""Why a row is there, or no longer: what it replaced, and which changed ancestors made it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from refine_dagster.lineage.asset_change import AssetChange, compare
from refine_dagster.lineage.cause import Reason
from refine_dagster.lineage.causes import Causes
from refine_dagster.lineage.changed_rows import compared, contents
from refine_dagster.lineage.natural_keys import key_sql
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.timeline import Materialization, Timeline


@dataclass(frozen=True)
class Event:
    """A row added or removed.

    Attributes:
        by: the materialization.
        other_id: the row replaced by an added one, or that replaced a removed one; None where
            nothing did.
        old: of the columns that differ from the other row, the values before.
        new: the values after.
        reasons: what it follows from.
        change: what else differs between the materialization and the one before it.
    """

    by: Materialization
    other_id: str | None
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    reasons: tuple[Reason, ...]
    change: AssetChange


@dataclass(frozen=True)
class CompletionUse:
    """The completion that a row was read from.

    Attributes:
        key: as in `store.completions`.
        sent: whether the materialization that added the row sent it; None if it does not say.
        sent_by: the run that sent it; None if the store no longer has it.
    """

    key: str
    sent: bool | None
    sent_by: str | None


@dataclass(frozen=True)
class RowExplanation:
    """One row explained.

    Attributes:
        key: the row's natural key.
        payload: its content.
        added: its last addition.
        removed: its removal after that; None while it is live.
        kept: materializations of its asset since then that left it as it is.
        completion: where it was read from; None for rows of no completion.
        earlier: (added in, removed in) of times when the row was there before.
    """

    table: str
    asset: str
    row_id: str
    key: str
    payload: Mapping[str, Any]
    added: Event
    removed: Event | None
    kept: int
    completion: CompletionUse | None
    earlier: tuple[tuple[int, int], ...]


def explain_row(
    connection: duckdb.DuckDBPyConnection, timeline: Timeline, table: str, row_id: str
) -> RowExplanation:
    """Explain a row that is or was in a table."""
    lives = connection.execute(
        f"SELECT added_in, removed_in FROM history.{table} WHERE row_id = ? ORDER BY added_in",
        [row_id],
    ).fetchall()
    added_in, removed_in = lives[-1]
    key, join = key_sql(table, "one")
    asset = TABLES[table].asset
    until = removed_in or max(timeline.all) + 1
    later = [one for one in timeline.all.values() if added_in < one.sequence < until]
    payload = contents(connection, table, [row_id])[row_id]
    return RowExplanation(
        table=table,
        asset=asset,
        row_id=row_id,
        key=connection.execute(
            f"SELECT any_value({key}) FROM history.{table} AS one {join} WHERE one.row_id = ?",
            [row_id],
        ).fetchall()[0][0],
        payload=payload,
        added=_event(connection, timeline, table, row_id, added_in),
        removed=_event(connection, timeline, table, row_id, removed_in) if removed_in else None,
        kept=sum(one.asset == asset for one in later),
        completion=_completion(connection, payload.get("completion_key"), added_in),
        earlier=tuple((added, removed) for added, removed in lives[:-1]),
    )


def _event(
    connection: duckdb.DuckDBPyConnection,
    timeline: Timeline,
    table: str,
    row_id: str,
    sequence: int,
) -> Event:
    causes = Causes(connection, timeline, timeline.window_of(sequence))
    node, old_id, new_id = connection.execute(
        "SELECT node, old_id, new_id FROM changed WHERE table_name = ? AND ? IN (old_id, new_id)",
        [table, row_id],
    ).fetchall()[0]
    payload = contents(connection, table, {one for one in (old_id, new_id) if one})
    paired = old_id is not None and new_id is not None
    old, new = compared(payload[old_id], payload[new_id]) if paired else ({}, {})
    asset = TABLES[table].asset
    return Event(
        by=timeline.all[sequence],
        other_id=new_id if row_id == old_id else old_id,
        old=old,
        new=new,
        reasons=causes.of_node(node),
        change=compare(timeline, asset, sequence - 1, sequence),
    )


def _completion(
    connection: duckdb.DuckDBPyConnection, key: str | None, sequence: int
) -> CompletionUse | None:
    if key is None:
        return None
    used = connection.execute(
        "SELECT sent FROM lineage.uses WHERE sequence = ? AND key = ?", [sequence, key]
    ).fetchall()
    stored = connection.execute(
        "SELECT run_id FROM store.completions WHERE key = ?", [key]
    ).fetchall()
    return CompletionUse(key, used[0][0] if used else None, stored[0][0] if stored else None)
