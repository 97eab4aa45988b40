"""Why an asset is as it is: what its last change made anew, and because of what."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from refine_dagster.lineage.asset_change import AssetChange, compare
from refine_dagster.lineage.cause import Reason
from refine_dagster.lineage.causes import Causes
from refine_dagster.lineage.ledger import read_prunes
from refine_dagster.lineage.tables import TABLES, tables_of
from refine_dagster.lineage.timeline import Materialization, Timeline


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
    """A reason and how many rows of the asset have it."""

    reason: Reason
    rows: int


@dataclass(frozen=True)
class AssetExplanation:
    """The last materialization of an asset that changed its content, explained.

    Attributes:
        last: the asset's last materialization.
        made: the last one that changed something; the same as `last`, or older.
        since: what differs between `last` and the one before it, though no row did; None where
            `last` is `made`.
        change: what differs between `made` and the one before it.
        tables: rows of `made` by table, the asset's own first.
        requests: requests of `made` by role.
        checkpoints: those that rows live after `made` name.
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
    counted = connection.execute(
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
        tables=tuple(_count(connection, table.name, made.sequence) for table in tables_of(asset)),
        requests=tuple(
            Requests(*row)
            for row in connection.execute(
                "SELECT role, asked, reused, sent FROM lineage.requests WHERE sequence = ? "
                "ORDER BY role",
                [made.sequence],
            ).fetchall()
        ),
        checkpoints=_checkpoints(connection, asset, made.sequence),
        pruned=any(made.sequence <= one.horizon + 1 for one in read_prunes(connection)),
        reasons=tuple(
            ReasonCount(Reason(causes.known[cause], tuple(through), indirect), rows)
            for cause, through, indirect, rows in counted
        ),
    )


def _count(connection: duckdb.DuckDBPyConnection, table: str, sequence: int) -> TableCount:
    total, added, removed = connection.execute(
        f"""
        SELECT count(*) FILTER (added_in <= {sequence} AND coalesce(removed_in > {sequence}, true)),
               count(*) FILTER (added_in = {sequence}), count(*) FILTER (removed_in = {sequence})
        FROM history.{table}
        """
    ).fetchall()[0]
    return TableCount(table, total, added, removed, reused=total - added)


def _checkpoints(
    connection: duckdb.DuckDBPyConnection, asset: str, sequence: int
) -> tuple[CheckpointUse, ...]:
    if "checkpoint_hash" not in TABLES[asset].columns:
        return ()
    found = connection.execute(
        f"""
        SELECT DISTINCT checkpoint_hash, EXISTS (
            SELECT 1 FROM lineage.checkpoints AS known
            WHERE known.asset = ? AND known.content_hash = checkpoint_hash
              AND known.sequence = {sequence}
        )
        FROM history.{asset}
        WHERE checkpoint_hash IS NOT NULL
          AND added_in <= {sequence} AND coalesce(removed_in > {sequence}, true)
        ORDER BY ALL
        """,
        [asset],
    ).fetchall()
    return tuple(CheckpointUse(*row) for row in found)
