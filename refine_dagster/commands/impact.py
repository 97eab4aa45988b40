"""`refine-dagster impact`: what a seed task touched."""

from __future__ import annotations

import json
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from refine_dagster.commands.output import console, existing_home, open_warehouse

if TYPE_CHECKING:
    from refine_dagster.lineage.impact import Impact, SeedVersion


class ImpactFormat(StrEnum):
    """What `impact` prints."""

    TEXT = "text"
    JSON = "json"


def impact(
    seed: Annotated[
        str, typer.Argument(help="A seed_id, or a row_id of a seed task, or its first 6 digits.")
    ],
    as_of: Annotated[
        int | None, typer.Option(min=0, help="After this materialization, instead of now.")
    ] = None,
    format: Annotated[
        ImpactFormat, typer.Option(help="Tables to read, or JSON with every row.")
    ] = ImpactFormat.TEXT,
) -> None:
    """Show what a seed task touched: rows, dataset, checkpoints, exports; removed seeds too.

    Example: refine-dagster impact seed_task_7 --as-of 12
    """
    from refine_dagster.lineage import impact as engine

    found = engine.impact(open_warehouse(existing_home()), seed, as_of)
    if format is ImpactFormat.JSON:
        typer.echo(json.dumps(found.as_json(), ensure_ascii=False, indent=2))
    else:
        _show(found)


def _show(found: Impact) -> None:
    now = found.as_of == found.latest
    _say(f"as of {'now, ' if now else ''}materialization {found.as_of} of {found.latest}")
    for version in found.seeds:
        _say(f"seed {version.seed_id}, row {version.row_id}, {_life(version)}")
        _say(f"    {version.instruction}")
    for version in found.others:
        _say(f"not counted: version {version.row_id}, {_life(version)}; ask for it by that id")
    _table(
        "Rows that descend from it",
        ("table", "shown", "trained", "compared", "of", "ever"),
        [(t.table, t.shown, t.trained, t.compared, t.of, t.ever) for t in found.tables],
    )
    if found.dataset:
        data = found.dataset
        _say(
            f"dataset {data.data_version[:12]} (materialization {data.sequence}): "
            f"{data.rows} of {data.of} rows descend from it"
        )
    _table(
        "Checkpoints of that time",
        ("asset", "checkpoint", "path", "how", "live now"),
        [
            (one.asset, one.content_hash[:12], one.path, one.how, "yes" if one.live else "no")
            for one in found.checkpoints
        ],
    )
    _table(
        "Exported files",
        ("path", "format", "dataset", "rows", "of"),
        [(one.path, one.format, one.data_version[:12], one.rows, one.of) for one in found.exports],
    )
    _table(
        "Live checkpoints that were trained on it",
        ("asset", "checkpoint", "path"),
        [(one.asset, one.content_hash[:12], one.path) for one in found.live_checkpoints],
    )


def _life(version: SeedVersion) -> str:
    gone = "live" if version.removed_in is None else f"removed in {version.removed_in}"
    return f"added in {version.added_in}, {gone}"


def _table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.table import Table
    from rich.text import Text

    if not rows:
        _say(f"{title}: none")
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, name in enumerate(columns):
        number = isinstance(rows[0][place], int)
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text("" if value is None else str(value)) for value in row))
    console.print(table)


def _say(line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
