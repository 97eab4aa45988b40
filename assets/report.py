"""The report of a run: one page to show, written beside the warehouse."""

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from assets.graph import pipeline
from assets.preview import markdown_table
from refine_dagster.errors import RefineError
from refine_dagster.hashing import content_id
from refine_dagster.home import Home
from refine_dagster.report.page import Report, write_report
from resources.warehouse import WarehouseResource

# Of what the page shows and how, raised by hand.
REVISION = "1"


def run_report(rounds: int) -> dg.AssetsDefinition:
    deps = [asset.facts.key for asset in pipeline(rounds)]

    @dg.asset(
        deps=deps,
        group_name="evaluation",
        kinds={"html"},
        owners=["team:data"],
        code_version=REVISION,
    )
    def run_report(warehouse: WarehouseResource) -> dg.MaterializeResult[Any]:
        """The report: what was made and how sure we are, on one page without a network.

        `run_report.html` beside the warehouse: graph, funnel, training curves, arms with intervals,
        rejected and sample rows, diversity, seeds, spend, privacy, and what the run changed.
        `refine-dagster report` writes it again at any time.
        """
        opened = warehouse.open()
        path = Home(Path(warehouse.database).parent).report
        try:
            report = write_report(opened, path)
            versions = opened.data_versions()
        except RefineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from error
        read = {key: versions.get(key) for key in deps}
        return dg.MaterializeResult(
            metadata={
                "path": dg.MetadataValue.path(path),
                "page": dg.MetadataValue.url(path.as_uri()),
                "report": dg.MetadataValue.md(as_markdown(report)),
                "out_of_date": ", ".join(report.stale) or "none",
            },
            # The page also has times; what it says follows from these.
            data_version=dg.DataVersion(content_id("report", REVISION, read)),
        )

    return run_report


def as_markdown(report: Report) -> str:
    """The report's figures and findings for the UI, which shows no HTML."""
    tiles = pl.DataFrame([[tile.label, tile.value, tile.note] for tile in report.tiles],
                         schema=["figure", "value", "note"], orient="row")  # fmt: skip
    findings = "\n".join(f"- {finding.text}" for finding in report.findings)
    stages = [(stage.name, stage.read, stage.kept, stage.unaccounted) for stage in report.funnel]
    funnel = pl.DataFrame(stages, schema=["stage", "in", "kept", "unaccounted"], orient="row")
    return f"{markdown_table(tiles)}\n\n{findings}\n\n{markdown_table(funnel)}"
