"""`refine-dagster export`: the dataset as a file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from refine_dagster.commands.output import existing_home, open_warehouse, say


class ExportFormat(StrEnum):
    """Formats of `export`."""

    ALPACA = "alpaca"
    MESSAGES = "messages"
    PARQUET = "parquet"


def export(
    to: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[ExportFormat, typer.Option(help="Layout of the rows.")] = ExportFormat.ALPACA,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write the instruction dataset to a file that `datasets.load_dataset` reads.

    Example: refine-dagster export --format messages --to dataset.jsonl
    """
    from refine_dagster.lineage.export import export_live_dataset

    result = export_live_dataset(
        open_warehouse(existing_home()), format.value, to, overwrite=overwrite
    )
    for written in result.files:
        say(f"wrote {written}")
    say(f"{result.rows} rows, sha256 {result.sha256}")
