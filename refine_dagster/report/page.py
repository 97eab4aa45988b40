"""The report as one HTML page: everything inline, no script, nothing fetched.

Texts of seeds and models are hostile: the templates escape every value, and a content security
policy in the page lets nothing run or load even if one slipped through.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError
from refine_dagster.home import write_atomically
from refine_dagster.lineage.staleness import Stale, Staleness
from refine_dagster.lineage.timeline import Timeline
from refine_dagster.report.changes import Changes, read_changes
from refine_dagster.report.charts import IntervalChart
from refine_dagster.report.funnel import Stage, read_funnel
from refine_dagster.report.graph import Graph, read_graph
from refine_dagster.report.learning import Curves, read_curves
from refine_dagster.report.outcome import (
    Finding,
    Tile,
    read_arms,
    read_findings,
    read_judge,
    read_privacy,
    read_tiles,
)
from refine_dagster.report.samples import Sample, read_samples
from refine_dagster.report.seeds import SeedUse, read_seed_use
from refine_dagster.report.spend import read_spend
from refine_dagster.report.table import Table, seconds_text, written
from refine_dagster.report.variety import Variety, read_variety
from refine_dagster.warehouse.tables import tables_of
from refine_dagster.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    import jinja2

# By this, among so many bytes from its beginning, a file is known as a report.
MADE_BY, BEGINNING = b'name="generator" content="refine-dagster"', 1_000
# What HTML cannot hold, and marks that turn the direction of the text around them.
_UNSEEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufffe\uffff]")


@dataclass(frozen=True)
class Report:
    """Everything that the page shows, as the warehouse has it now.

    Attributes:
        made_at: when the last materialization ended, ISO 8601, UTC.
        sequence, digest: the ledger's head.
        stale: asset -> why its figures no longer hold.
        stale_models: SQL models that no longer hold; the page reads none of them.
    """

    made_at: str
    sequence: int
    digest: str
    stale: Mapping[str, Stale]
    stale_models: tuple[str, ...]
    tiles: list[Tile]
    findings: list[Finding]
    graph: Graph
    funnel: list[Stage]
    curves: list[Curves]
    judge: Table
    arms: tuple[IntervalChart | None, Table]
    samples: list[Sample]
    variety: Variety
    seeds: SeedUse
    spend: tuple[Table, Table]
    privacy: tuple[IntervalChart | None, Table]
    changes: Changes | None

    @property
    def is_reconciled(self) -> bool:
        """Whether every stage's funnel adds up."""
        return all(stage.unaccounted == 0 for stage in self.funnel)


def read_report(warehouse: Warehouse) -> Report:
    """Read everything that the page shows.

    Raises:
        RefineError: nothing was materialised yet.
    """
    with warehouse.held(), warehouse.connect() as connection:
        timeline = Timeline(connection)
        if not timeline.all:
            raise RefineError(
                "nothing was materialised here yet",
                where=str(warehouse.path),
                fix="run `refine-dagster run` first",
            )
        head = timeline.all[max(timeline.all)]
        ((digest,),) = connection.execute(
            "SELECT digest FROM lineage.materializations ORDER BY sequence DESC LIMIT 1"
        ).fetchall()
        stale = Staleness(connection).assets
        return Report(
            made_at=head.finished_at,
            sequence=head.sequence,
            digest=digest,
            stale={asset: why for asset, why in stale.items() if tables_of(asset)},
            stale_models=tuple(asset for asset in stale if not tables_of(asset)),
            tiles=read_tiles(connection),
            findings=read_findings(connection),
            graph=read_graph(connection, timeline, stale),
            funnel=read_funnel(connection),
            curves=read_curves(connection),
            judge=read_judge(connection),
            arms=read_arms(connection),
            samples=read_samples(warehouse),
            variety=read_variety(connection),
            seeds=read_seed_use(connection),
            spend=read_spend(connection),
            privacy=read_privacy(connection),
            changes=read_changes(warehouse),
        )


def write_report(warehouse: Warehouse, to: Path) -> Report:
    """Write the page to a file, whole or not at all; an earlier report there is replaced.

    Raises:
        RefineError: nothing was materialised, the file is something else, or it cannot be written.
    """
    report = read_report(warehouse)
    try:
        if to.exists() and MADE_BY not in to.read_bytes()[:BEGINNING]:
            raise RefineError(
                "there is a file that is no report", where=str(to), fix="name another file"
            )
        write_atomically(to, render(report))
    except OSError as error:
        raise RefineError(
            f"cannot write the report: {error.strerror or error}",
            where=str(to),
            fix="name a place that can be written to and has room",
        ) from error
    return report


def render(report: Report) -> str:
    """The report's page."""
    return _environment().get_template("report.html.j2").render(report=report)


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("refine_dagster.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_visible,
    )
    environment.filters |= {"written": written, "seconds": seconds_text, "cut": _cut}
    return environment


def _visible(value: Any) -> Any:
    """A value without control characters, so that the page is well-formed and reads as it looks."""
    if type(value) is str:
        return _UNSEEN.sub("\ufffd", value)
    return value


def _cut(text: str, longest: int = 400) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
