"""The graph as it was last made: assets in layers, with counts and seconds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from graphlib import TopologicalSorter

import duckdb

from refine_dagster.config.policy_round import split_name
from refine_dagster.lineage.staleness import Stale
from refine_dagster.lineage.timeline import Timeline
from refine_dagster.report.table import Table, counted, seconds_text
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import EXPORTS, tables_of
from refine_dagster.warehouse.warehouse import RETIRED

BOX_WIDTH, BOX_HEIGHT, GAP_ACROSS, GAP_DOWN = 208, 56, 14, 34


@dataclass(frozen=True)
class Box:
    """An asset: its place in pixels, what its box says, and why it is stale if it is."""

    asset: str
    x: float
    y: float
    lines: tuple[str, ...]
    stale: str | None

    width, height = BOX_WIDTH, BOX_HEIGHT


@dataclass(frozen=True)
class Graph:
    """Boxes, the arrows between them as path data, the size of all, and the same as a table."""

    boxes: tuple[Box, ...]
    arrows: tuple[str, ...]
    width: float
    height: float
    table: Table
    seconds: float


@dataclass(frozen=True)
class Made:
    """An asset: rows of its last materialization, and what the last one that worked took."""

    asset: str
    sequence: int
    rows: int
    added: int
    removed: int
    asked: int
    sent: int
    seconds: float
    hardware: str | None


def read_graph(
    connection: duckdb.DuckDBPyConnection, timeline: Timeline, stale: Mapping[str, Stale]
) -> Graph:
    made = {one.asset: one for one in _made(connection)}
    reads = {
        asset: {name for name in timeline.inputs[one.sequence] if name in made}
        for asset, one in made.items()
    }
    places, width = _places(reads)
    boxes = tuple(
        Box(
            asset,
            *places[asset],
            lines=(
                f"{counted(one.rows, 'row')}, {seconds_text(one.seconds)}",
                f"{one.sent:,} of {one.asked:,} requests sent" if one.asked else "no requests",
            ),
            stale=stale[asset].label if asset in stale else None,
        )
        for asset, one in made.items()
    )
    arrows = tuple(
        _arrow(*places[source], *places[asset])
        for asset, sources in reads.items()
        for source in sorted(_nearest(asset, sources, reads))
    )
    table = Table.of(
        "One asset: its last materialization; seconds and requests of the last one that worked",
        ("asset", "rows", "added", "removed", "requests", "sent", "seconds", "on", "inputs"),
        [
            (
                one.asset, one.rows, one.added, one.removed, one.asked, one.sent,
                round(one.seconds, 1), one.hardware,
                stale[asset].label if asset in stale else "as they are now",
            )
            for asset, one in made.items()
        ],
    )  # fmt: skip
    height = max((box.y + BOX_HEIGHT for box in boxes), default=0) + 4
    return Graph(boxes, arrows, width, height, table, sum(one.seconds for one in made.values()))


def _made(connection: duckdb.DuckDBPyConnection) -> list[Made]:
    """The assets that commit tables, in the order in which they were made.

    Of an asset that was found unchanged, what its work took is in the last record before that
    which changed rows, asked a model or used a device.
    """
    rows = connection.execute(
        """
        WITH ranked AS (
            SELECT *, row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) AS newest,
                   row_number() OVER (PARTITION BY asset ORDER BY
                       NOT starts_with(run_id, ?) AND
                           (rows_added + rows_removed + requests_asked > 0 OR device <> '{}') DESC,
                       sequence DESC) AS working
            FROM lineage.materializations
        )
        SELECT last.asset, last.sequence, last.rows_total, work.rows_added, work.rows_removed,
               work.requests_asked, work.requests_sent,
               date_diff('millisecond', work.started_at::TIMESTAMPTZ,
                         work.finished_at::TIMESTAMPTZ) / 1000,
               coalesce(work.device::JSON ->> 'hardware', work.device::JSON ->> 'name')
        FROM ranked AS last JOIN ranked AS work USING (asset)
        WHERE last.newest = 1 AND work.working = 1
          AND last.code_version <> ? AND last.asset <> ?
        ORDER BY last.sequence
        """,
        [MIGRATION, RETIRED, EXPORTS],
    ).fetchall()
    return [Made(*row) for row in rows if tables_of(row[0])]


def _places(reads: Mapping[str, set[str]]) -> tuple[dict[str, tuple[float, float]], float]:
    """Upper left corner of each asset's box, and the width of all: a layer below its inputs'."""
    depth: dict[str, int] = {}
    for asset in TopologicalSorter(reads).static_order():
        depth[asset] = 1 + max((depth[name] for name in reads[asset]), default=-1)
    layers: defaultdict[int, list[str]] = defaultdict(list)
    for asset in sorted(depth, key=lambda name: (depth[name], split_name(name)[1].number)):
        layers[depth[asset]].append(asset)
    widest = max((len(layer) for layer in layers.values()), default=1)
    width = widest * (BOX_WIDTH + GAP_ACROSS) - GAP_ACROSS + 4
    places: dict[str, tuple[float, float]] = {}
    for layer, assets in layers.items():
        used = len(assets) * (BOX_WIDTH + GAP_ACROSS) - GAP_ACROSS
        for place, asset in enumerate(assets):
            x = 2 + (width - 4 - used) / 2 + place * (BOX_WIDTH + GAP_ACROSS)
            places[asset] = (x, 2.0 + layer * (BOX_HEIGHT + GAP_DOWN))
    return places, width


def _nearest(asset: str, sources: set[str], reads: Mapping[str, set[str]]) -> set[str]:
    """Inputs that no other input of the asset is made from: the others are drawn by way of it."""
    above: set[str] = set()
    waiting = [name for source in sources for name in reads[source]]
    while waiting:
        name = waiting.pop()
        if name not in above:
            above.add(name)
            waiting += reads[name]
    return sources - above


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    start, end = x1 + BOX_WIDTH / 2, x2 + BOX_WIDTH / 2
    top, bottom = y1 + BOX_HEIGHT, y2 - 3
    half = (top + bottom) / 2
    return f"M{start:.0f} {top:.0f} C{start:.0f} {half:.0f} {end:.0f} {half:.0f} {end:.0f} {bottom}"
