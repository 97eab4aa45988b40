"""`refine-dagster impact`: what a seed task touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refine_dagster.commands.options import FormatOption, OutputFormat
from refine_dagster.commands.output import (
    console,
    existing_home,
    open_warehouse,
    print_json,
    rich_table,
    say,
)

if TYPE_CHECKING:
    from refine_dagster.lineage.impact import Impact, SeedVersion


def impact(
    seed: Annotated[
        str, typer.Argument(help="A seed_id, or a row_id of a seed task, or its first 6 digits.")
    ],
    as_of: Annotated[
        int | None, typer.Option(min=0, help="After this materialization, instead of now.")
    ] = None,
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Show what a seed task touched: rows, dataset, checkpoints, exports; removed seeds too.

    Example: refine-dagster impact seed_task_7 --as-of 12
    """
    from refine_dagster.lineage import impact as engine

    touched = engine.impact(open_warehouse(existing_home()), seed, as_of)
    if format is OutputFormat.JSON:
        print_json(touched.as_json())
    else:
        _print_impact(touched)


def _print_impact(touched: Impact) -> None:
    now = touched.as_of == touched.latest
    say(f"as of {'now, ' if now else ''}materialization {touched.as_of} of {touched.latest}")
    for version in touched.seeds:
        say(f"seed {version.seed_id}, row {version.row_id}, {_life(version)}")
        say(f"    {version.instruction}")
    for version in touched.others:
        say(f"not counted: version {version.row_id}, {_life(version)}; ask for it by that id")
    _print_table(
        "Rows that descend from it",
        ("table", "shown", "trained", "compared", "of", "ever"),
        [(t.table, t.shown, t.trained, t.compared, t.of, t.ever) for t in touched.tables],
    )
    if touched.dataset:
        data = touched.dataset
        say(
            f"dataset {data.data_version[:12]} (materialization {data.sequence}): "
            f"{data.rows} of {data.of} rows descend from it"
        )
    _print_table(
        "Checkpoints of that time",
        ("asset", "checkpoint", "path", "how", "live now"),
        [
            (use.asset, use.content_hash[:12], use.path, use.how, "yes" if use.live else "no")
            for use in touched.checkpoints
        ],
    )
    _print_table(
        "Exported files",
        ("path", "format", "dataset", "rows", "of"),
        [
            (file.path, file.format, file.data_version[:12], file.rows, file.of)
            for file in touched.exports
        ],
    )
    _print_table(
        "Live checkpoints that were trained on it",
        ("asset", "checkpoint", "path"),
        [(use.asset, use.content_hash[:12], use.path) for use in touched.live_checkpoints],
    )


def _life(version: SeedVersion) -> str:
    gone = "live" if version.removed_in is None else f"removed in {version.removed_in}"
    return f"added in {version.added_in}, {gone}"


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        console.print(rich_table(title, columns, rows))
    else:
        say(f"{title}: none")
