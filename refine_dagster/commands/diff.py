"""`refine-dagster diff`: what differs between two past states, and because of what."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.output import (
    OutputFormat,
    cause_lines,
    console,
    existing_home,
    open_warehouse,
    print_json,
    say,
    text_of,
)

if TYPE_CHECKING:
    from rich.table import Table

    from refine_dagster.lineage.diff import Group, StateDifference

GROUPS_SHOWN = 6
CAUSES_SHOWN = 20


def diff(
    before: Annotated[int, typer.Argument(metavar="N", help="A materialization's number.")],
    after: Annotated[int, typer.Argument(metavar="M", help="Another, later or earlier.")],
    table: Annotated[str | None, typer.Option(help="Show the rows of this table.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Rows shown.")] = 20,
    format: Annotated[OutputFormat, typer.Option(help="Layout.")] = OutputFormat.TEXT,
) -> None:
    """Compare the states after two materializations: rows added, removed, changed, by cause.

    A row is changed if another row fills its place: the same seed, slot, arm or task. Changed rows
    with the same content have other ancestors.

    Example: refine-dagster diff 12 24 --table instruction_dataset
    """
    from refine_dagster.lineage.diff import difference

    told = difference(open_warehouse(existing_home()), before, after, table=table, limit=limit)
    if format is OutputFormat.JSON:
        print_json(told)
        return
    if not told.groups:
        say(f"nothing differs between materializations {before} and {after}")
        return
    console.print(_summary(told))
    _print_causes(told)
    if table is not None and told.rows is not None:
        say()
        say(f"{table}: {len(told.rows)} of {told.rows_total} rows that differ")
        console.print(_rows(told))


def _summary(told: StateDifference) -> Table:
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=f"From materialization {told.before} to {told.after}", title_justify="left")
    shown.add_column("table", no_wrap=True)
    for name in ("added", "removed", "changed"):
        shown.add_column(name, justify="right")
    shown.add_column("same content", justify="right")
    shown.add_column("because of", overflow="fold")
    for table, found in groupby(told.groups, key=lambda group: group.table):
        groups = list(found)
        only = len(groups) == 1
        shown.add_row(table, *_counts(groups), Text(told.label(groups[0].reasons) if only else ""))
        for group in groups[:GROUPS_SHOWN] if not only else ():
            shown.add_row("", *_counts([group]), Text(told.label(group.reasons)), style="dim")
        rest = groups[GROUPS_SHOWN:]
        if rest and not only:
            shown.add_row("", *_counts(rest), f"{len(rest)} other combinations", style="dim")
    return shown


def _counts(groups: list[Group]) -> list[str]:
    return [
        str(sum(group.added for group in groups)),
        str(sum(group.removed for group in groups)),
        str(sum(group.changed for group in groups)),
        str(sum(group.lineage_only for group in groups)),
    ]


def _print_causes(told: StateDifference) -> None:
    listed = [cause for cause in told.causes.values() if list(cause_lines(cause))]
    for cause in listed[:CAUSES_SHOWN]:
        say(cause.label)
        for line in cause_lines(cause):
            say(f"  {line}")
    if len(listed) > CAUSES_SHOWN:
        say(f"and {len(listed) - CAUSES_SHOWN} more causes; `--format json` lists all")


def _rows(told: StateDifference) -> Table:
    """A line for each column that differs, old beside new."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(show_lines=False)
    shown.add_column("row", overflow="fold")
    shown.add_column("column", no_wrap=True)
    for name in ("old", "new"):
        shown.add_column(name, overflow="fold", ratio=1)
    for row in told.rows or ():
        key = row.key or "the row"
        if row.old_id is None or row.new_id is None:
            key += " added" if row.old_id is None else " removed"
        names = list(dict.fromkeys([*row.old, *row.new])) or ["(ancestors)"]
        for place, name in enumerate(names):
            shown.add_row(
                key if place == 0 else "",
                name,
                Text(text_of(row.old[name]) if name in row.old else ""),
                Text(text_of(row.new[name]) if name in row.new else ""),
            )
        shown.add_section()
    return shown
