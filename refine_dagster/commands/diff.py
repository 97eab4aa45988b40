"""`refine-dagster diff`: what differs between two past states, and because of what."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.options import FormatOption, OutputFormat
from refine_dagster.commands.output import (
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
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Compare the states after two materializations: rows added, removed, changed, by cause.

    A row is changed if another row fills its place: the same seed, slot, arm or task. Changed rows
    with the same content have other ancestors.

    Example: refine-dagster diff 12 24 --table instruction_dataset
    """
    from refine_dagster.lineage.diff import difference

    states = difference(open_warehouse(existing_home()), before, after, table=table, limit=limit)
    if format is OutputFormat.JSON:
        print_json(states)
        return
    if not states.groups:
        say(f"nothing differs between materializations {before} and {after}")
        return
    console.print(_summary(states))
    _print_causes(states)
    if table is not None and states.rows is not None:
        say()
        say(f"{table}: {len(states.rows)} of {states.rows_total} rows that differ")
        console.print(_rows(states))


def _summary(states: StateDifference) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = f"From materialization {states.before} to {states.after}"
    summary = Table(title=title, title_justify="left")
    summary.add_column("table", no_wrap=True)
    for name in ("added", "removed", "changed", "same content"):
        summary.add_column(name, justify="right")
    summary.add_column("because of", overflow="fold")
    for table, same_table in groupby(states.groups, key=lambda group: group.table):
        groups = list(same_table)
        if len(groups) == 1:
            summary.add_row(table, *_counts(groups), Text(states.label(groups[0].reasons)))
            continue
        summary.add_row(table, *_counts(groups))
        for group in groups[:GROUPS_SHOWN]:
            summary.add_row("", *_counts([group]), Text(states.label(group.reasons)), style="dim")
        if rest := groups[GROUPS_SHOWN:]:
            summary.add_row("", *_counts(rest), f"{len(rest)} other combinations", style="dim")
    return summary


def _counts(groups: list[Group]) -> list[str]:
    names = ("added", "removed", "changed", "lineage_only")
    return [str(sum(getattr(group, name) for group in groups)) for name in names]


def _print_causes(states: StateDifference) -> None:
    causes = [cause for cause in states.causes.values() if list(cause_lines(cause))]
    for cause in causes[:CAUSES_SHOWN]:
        say(cause.label)
        for line in cause_lines(cause):
            say(f"  {line}")
    if len(causes) > CAUSES_SHOWN:
        say(f"and {len(causes) - CAUSES_SHOWN} more causes; `--format json` lists all")


def _rows(states: StateDifference) -> Table:
    """A line for each column that differs, old beside new."""
    from rich.table import Table
    from rich.text import Text

    table = Table(show_lines=False)
    table.add_column("row", overflow="fold")
    table.add_column("column", no_wrap=True)
    for name in ("old", "new"):
        table.add_column(name, overflow="fold", ratio=1)
    for row in states.rows or ():
        label = row.key or "the row"
        if row.old_id is None or row.new_id is None:
            label += " added" if row.old_id is None else " removed"
        for name in dict.fromkeys([*row.old, *row.new]) or ["(ancestors)"]:
            versions = (text_of(side[name]) if name in side else "" for side in (row.old, row.new))
            table.add_row(label, name, *map(Text, versions))
            label = ""
        table.add_section()
    return table
