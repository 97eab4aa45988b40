"""Why an asset or a row is as it is: what made it, what had changed, and what it replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from refine_dagster.errors import RefineError
from refine_dagster.lineage.causes import Causes, Reason
from refine_dagster.lineage.changes import AssetChange, compare, compared, contents
from refine_dagster.lineage.timeline import Materialization, Timeline
from refine_dagster.lineage.trace import RowName, find_row, is_prefix
from refine_dagster.warehouse.ledger import read_prunes
from refine_dagster.warehouse.tables import MODELS, TABLES, Slice, key_sql, slice_of, tables_of
from refine_dagster.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class TableCount:
    """What one materialization did to one table: rows live after it, of which added or kept."""

    table: str
    total: int
    added: int
    removed: int
    reused: int


@dataclass(frozen=True)
class Requests:
    """Requests of one role: asked, of which answered from the store or sent to the model."""

    role: str
    asked: int
    reused: int
    sent: int


@dataclass(frozen=True)
class CheckpointUse:
    """A checkpoint that live rows name: trained in this materialization, or found in the store."""

    content_hash: str
    trained: bool


@dataclass(frozen=True)
class ReasonCount:
    reason: Reason
    rows: int


@dataclass(frozen=True)
class AssetExplanation:
    """The last materialization of an asset that changed its content, explained.

    Attributes:
        made: the last one that changed something, which the other fields are about.
        since: what differs between `last` and the one before it, though no row did; None where
            `last` is `made`.
        change: what differs between `made` and the one before it.
        tables: the asset's own first.
        pruned: whether rows of the time before are no longer all there: counts and reasons are
            then those of the rows that are.
        reasons: what the changed rows follow from, direct reasons first, then by rows.
    """

    asset: str
    last: Materialization
    made: Materialization
    since: AssetChange | None
    change: AssetChange
    tables: tuple[TableCount, ...]
    requests: tuple[Requests, ...]
    checkpoints: tuple[CheckpointUse, ...]
    pruned: bool
    reasons: tuple[ReasonCount, ...]


def explain_asset(
    connection: duckdb.DuckDBPyConnection, timeline: Timeline, asset: str
) -> AssetExplanation:
    """Explain an asset that was materialised at least once."""
    made = timeline.last_change(asset)
    last = timeline.at(asset, max(timeline.all))
    assert last is not None
    causes = Causes(connection, timeline, timeline.window_of(made.sequence))
    requests = connection.execute(
        "SELECT role, asked, reused, sent FROM lineage.requests WHERE sequence = ? ORDER BY role",
        [made.sequence],
    ).fetchall()
    reasons = connection.execute(
        """
        SELECT cause, through, indirect, count(*) AS reached
        FROM reasons JOIN changed USING (node) WHERE asset = ? GROUP BY cause, through, indirect
        ORDER BY indirect, through, reached DESC, cause
        """,
        [asset],
    ).fetchall()
    return AssetExplanation(
        asset=asset,
        last=last,
        made=made,
        since=None if last is made else compare(timeline, asset, last.sequence - 1, last.sequence),
        change=compare(timeline, asset, made.sequence - 1, made.sequence),
        tables=tuple(_count(connection, owned, made.sequence) for owned in tables_of(asset)),
        requests=tuple(Requests(*row) for row in requests),
        checkpoints=_checkpoints(connection, asset, made.sequence),
        pruned=any(made.sequence <= prune.horizon + 1 for prune in read_prunes(connection)),
        reasons=tuple(
            ReasonCount(Reason(causes.known[cause], tuple(through), indirect), rows)
            for cause, through, indirect, rows in reasons
        ),
    )


def _count(connection: duckdb.DuckDBPyConnection, owned: Slice, sequence: int) -> TableCount:
    ((total, added, removed),) = connection.execute(
        f"""
        SELECT count(*) FILTER (added_in <= {sequence} AND coalesce(removed_in > {sequence}, true)),
               count(*) FILTER (added_in = {sequence}), count(*) FILTER (removed_in = {sequence})
        FROM history.{owned.table.name} WHERE {owned.condition}
        """
    ).fetchall()
    return TableCount(owned.table.name, total, added, removed, reused=total - added)


def _checkpoints(
    connection: duckdb.DuckDBPyConnection, asset: str, sequence: int
) -> tuple[CheckpointUse, ...]:
    owned = tables_of(asset)[0]
    if owned.table.name not in MODELS:
        return ()
    rows = connection.execute(
        f"""
        SELECT DISTINCT checkpoint_hash, EXISTS (
            SELECT 1 FROM lineage.checkpoints AS known
            WHERE known.asset = ? AND known.content_hash = checkpoint_hash
              AND known.sequence = {sequence}
        )
        FROM history.{owned.table.name}
        WHERE {owned.condition} AND checkpoint_hash IS NOT NULL
          AND added_in <= {sequence} AND coalesce(removed_in > {sequence}, true)
        ORDER BY ALL
        """,
        [asset],
    ).fetchall()
    return tuple(CheckpointUse(*row) for row in rows)


@dataclass(frozen=True)
class Event:
    """A row added or removed.

    Attributes:
        by: the materialization.
        other_id: the row replaced by an added one, or that replaced a removed one; None where
            nothing did.
        old, new: values of the columns that differ from the other row.
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
        added: its last addition.
        removed: its removal after that; None while it is live.
        kept: materializations of its asset since then that left it as it is.
        completion: None for rows of no completion.
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
    connection: duckdb.DuckDBPyConnection, timeline: Timeline, row: RowName
) -> RowExplanation:
    table, row_id = row.table, row.row_id
    key, join = key_sql(table, "version")
    *earlier, (added_in, removed_in, natural_key) = connection.execute(
        f"SELECT version.added_in, any_value(version.removed_in), any_value({key}) "
        f"FROM history.{table} AS version {join} WHERE version.row_id = ? "
        "GROUP BY version.added_in ORDER BY version.added_in",
        [row_id],
    ).fetchall()
    until = removed_in or max(timeline.all) + 1
    payload = contents(connection, table, [row_id])[row_id]
    return RowExplanation(
        table=table,
        asset=row.asset,
        row_id=row_id,
        key=natural_key,
        payload=payload,
        added=_event(connection, timeline, row, added_in),
        removed=_event(connection, timeline, row, removed_in) if removed_in else None,
        kept=sum(
            materialization.asset == row.asset and added_in < sequence < until
            for sequence, materialization in timeline.all.items()
        ),
        completion=_completion(connection, payload.get("completion_key"), added_in),
        earlier=tuple((added, removed) for added, removed, _ in earlier),
    )


def _event(
    connection: duckdb.DuckDBPyConnection, timeline: Timeline, row: RowName, sequence: int
) -> Event:
    causes = Causes(connection, timeline, timeline.window_of(sequence))
    ((node, old_id, new_id),) = connection.execute(
        "SELECT node, old_id, new_id FROM changed WHERE table_name = ? AND ? IN (old_id, new_id)",
        [row.table, row.row_id],
    ).fetchall()
    old, new = dict[str, Any](), dict[str, Any]()
    if old_id is not None and new_id is not None:
        payload = contents(connection, row.table, {old_id, new_id})
        old, new = compared(payload[old_id], payload[new_id])
    return Event(
        by=timeline.all[sequence],
        other_id=new_id if row.row_id == old_id else old_id,
        old=old,
        new=new,
        reasons=causes.of_node(node),
        change=compare(timeline, row.asset, sequence - 1, sequence),
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


class ExplainError(RefineError):
    """There is no such asset to explain."""


def explain(warehouse: Warehouse, name: str) -> AssetExplanation | RowExplanation:
    """Explain an asset or table by its name, or a row by its id or the start of it.

    Raises:
        ExplainError: the name is neither, or the asset was never materialised.
        RowError: no row has that id, or several rows have.
    """
    asset = _asset_of(name)
    if asset is None and not is_prefix(name):
        assets = dict.fromkeys(table.asset for table in TABLES.values())
        raise ExplainError(
            f"{name!r} is no asset and no row id",
            fix="give a row_id or at least its first digits (`refine-dagster show TABLE` prints "
            f"them), or an asset: {', '.join(assets)}; those of a later policy round end in "
            "`_round_2`",
        )
    with warehouse.connect() as connection:
        timeline = Timeline(connection)
        if asset is None:
            return explain_row(connection, timeline, find_row(connection, name))
        if asset not in timeline.assets():
            raise ExplainError(
                f"{asset} was never materialised", fix=f"refine-dagster run --select {asset}"
            )
        return explain_asset(connection, timeline, asset)


def _asset_of(name: str) -> str | None:
    """The asset of that name, or that the slice of that name belongs to."""
    if tables_of(name):
        return name
    try:
        return slice_of(name).asset
    except KeyError:
        return None
