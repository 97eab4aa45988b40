"""`refine-dagster why` and `diff`: what changed, and because of what."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from refine_dagster.commands.output import (
    HASH_SHOWN,
    MOST_ROWS,
    FormatOption,
    console,
    existing_home,
    open_warehouse,
    plain,
    print_json,
    rich_table,
    say,
    shortened,
    titled,
)

if TYPE_CHECKING:
    from refine_dagster.lineage.causes import Cause
    from refine_dagster.lineage.changes import AssetChange
    from refine_dagster.lineage.diff import Group, StateDifference
    from refine_dagster.lineage.timeline import Materialization
    from refine_dagster.lineage.why import AssetExplanation, Event, RowExplanation

REASONS_SHOWN = 12
GROUPS_SHOWN = 6
CAUSES_SHOWN = 20


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ASSET|ROW", help="An asset or table, or a row's id or its first digits."
        ),
    ],
    format: FormatOption = "text",
) -> None:
    """Say what was reused, what was made again, and because of which change.

    Example: refine-dagster why instruction_dataset
    """
    from refine_dagster.lineage.why import AssetExplanation, explain

    explanation = explain(open_warehouse(existing_home()), name)
    if format == "json":
        print_json(explanation)
    elif isinstance(explanation, AssetExplanation):
        _print_asset(explanation)
    else:
        _print_row(explanation)


def _print_asset(asset: AssetExplanation) -> None:
    say(f"{asset.asset}, {_when(asset.last)}")
    if asset.since is not None:
        say(f"unchanged since {_when(asset.made)}")
        _print_changes("Its inputs and config since then", asset.since)
    counts = [(t.table, t.total, t.added, t.removed, t.reused) for t in asset.tables]
    console.print(rich_table(None, ("table", "rows", "added", "removed", "reused"), counts))
    for use in asset.requests:
        say(f"{use.role} requests: {use.asked} asked, {use.reused} reused, {use.sent} sent")
    for checkpoint in asset.checkpoints:
        how = "trained" if checkpoint.trained else "reused"
        say(f"checkpoint {checkpoint.content_hash[:HASH_SHOWN]}: {how}")
    if asset.change.is_first:
        say("made from nothing: there is no earlier materialization")
        return
    if asset.pruned:
        say("earlier rows were pruned: the following is about the rows that are left")
    _print_changes(f"Changed since materialization {asset.change.before}", asset.change)
    say("Because of")
    detailed: set[str] = set()
    for counted in asset.reasons[:REASONS_SHOWN]:
        say(f"  {counted.reason.label}: {counted.rows} {'row' if counted.rows == 1 else 'rows'}")
        if counted.reason.cause.label not in detailed:
            _print_details(counted.reason.cause)
        detailed.add(counted.reason.cause.label)
    _say_rest(len(asset.reasons))


def _print_row(row: RowExplanation) -> None:
    say(f"{row.table} {row.row_id}")
    if row.key:
        say(f"key: {row.key}")
    for name in ("instruction", "input", "output"):
        if row.payload.get(name):
            say(f"{name}: {_text_of(row.payload[name])}")
    for added, removed in row.earlier:
        say(f"was there before: added in {added}, removed in {removed}")
    say()
    say(f"added in {_when(row.added.by)}")
    if row.completion is not None:
        how = {True: "sent", False: "reused from the store", None: "not recorded as used"}
        by = f", first sent by run {row.completion.sent_by}" if row.completion.sent_by else ""
        key = row.completion.key[:HASH_SHOWN]
        say(f"  its completion {key} was {how[row.completion.sent]}{by}")
    _print_event(row.added, "replaced")
    if row.kept:
        say(f"kept as it is by {row.kept} later materializations of {row.asset}")
    say()
    if row.removed is None:
        say("live")
    else:
        say(f"removed in {_when(row.removed.by)}")
        _print_event(row.removed, "was replaced by")


def _print_event(event: Event, verb: str) -> None:
    if event.change.is_first:
        say("  made from nothing: the first materialization of its asset")
        return
    if event.other_id is None:
        say("  no row with the same key was " + ("removed" if verb == "replaced" else "added"))
    else:
        say(f"  it {verb} {event.other_id}")
        for line in _version_lines(event.old, event.new) if verb == "replaced" else ():
            say(f"    {line}")
    say("  because of")
    for reason in event.reasons[:REASONS_SHOWN]:
        say(f"    {reason.label}")
        _print_details(reason.cause, indent=6)
    _say_rest(len(event.reasons))


def _print_details(cause: Cause, indent: int = 4) -> None:
    for line in _cause_lines(cause):
        say(" " * indent + line)
    if cause.old_id and cause.new_id:
        say(" " * indent + f"row {cause.new_id} replaced {cause.old_id}")


def _print_changes(title: str, change: AssetChange) -> None:
    if not change.is_empty:
        say(title)
    for kind, differences in (("input", change.inputs), ("file", change.files)):
        for hashes in differences:
            say(f"  {kind} {hashes.name}: {_short(hashes.old)} → {_short(hashes.new)}")
    for field in change.config:
        say(f"  config {field.name}: {_text_of(field.old)} → {_text_of(field.new)}")
    if change.code is not None:
        say(f"  code: revision {change.code.old} → {change.code.new}")


def _say_rest(total: int) -> None:
    if total > REASONS_SHOWN:
        say(f"  and {total - REASONS_SHOWN} more; `--format json` lists all")


def _short(version: str | None) -> str:
    return version[:HASH_SHOWN] if version else "none"


def _when(materialization: Materialization) -> str:
    number, run_id = materialization.sequence, materialization.run_id
    return f"materialization {number} (run {run_id}, {materialization.finished_at[:19]} UTC)"


def diff(
    before: Annotated[int, typer.Argument(metavar="N", help="A materialization's number.")],
    after: Annotated[int, typer.Argument(metavar="M", help="Another, later or earlier.")],
    table: Annotated[str | None, typer.Option(help="Show the rows of this table.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST_ROWS, help="Rows shown.")] = 20,
    format: FormatOption = "text",
) -> None:
    """Compare the states after two materializations: rows added, removed, changed, by cause.

    A row is changed if another row fills its place: the same seed, slot, arm or task. Changed rows
    with the same content have other ancestors.

    Example: refine-dagster diff 12 24 --table instruction_dataset
    """
    from refine_dagster.lineage.diff import difference

    states = difference(open_warehouse(existing_home()), before, after, table=table, limit=limit)
    if format == "json":
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
    title = f"From materialization {states.before} to {states.after}"
    summary = titled(title)
    summary.add_column("table", no_wrap=True)
    for name in ("added", "removed", "changed", "same content"):
        summary.add_column(name, justify="right")
    summary.add_column("because of", overflow="fold")
    for table, same_table in groupby(states.groups, key=lambda group: group.table):
        groups = list(same_table)
        if len(groups) == 1:
            summary.add_row(plain(table), *_counts(groups), plain(states.label(groups[0].reasons)))
            continue
        summary.add_row(plain(table), *_counts(groups))
        for group in groups[:GROUPS_SHOWN]:
            summary.add_row("", *_counts([group]), plain(states.label(group.reasons)), style="dim")
        if rest := groups[GROUPS_SHOWN:]:
            summary.add_row("", *_counts(rest), f"{len(rest)} other combinations", style="dim")
    return summary


def _counts(groups: list[Group]) -> list[str]:
    names = ("added", "removed", "changed", "lineage_only")
    return [str(sum(getattr(group, name) for group in groups)) for name in names]


def _print_causes(states: StateDifference) -> None:
    causes = [cause for cause in states.causes.values() if list(_cause_lines(cause))]
    for cause in causes[:CAUSES_SHOWN]:
        say(cause.label)
        for line in _cause_lines(cause):
            say(f"  {line}")
    if len(causes) > CAUSES_SHOWN:
        say(f"and {len(causes) - CAUSES_SHOWN} more causes; `--format json` lists all")


def _rows(states: StateDifference) -> Table:
    """A line for each column that differs, old beside new."""
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
            versions = (_text_of(side[name]) if name in side else "" for side in (row.old, row.new))
            table.add_row(plain(label), plain(name), *map(plain, versions))
            label = ""
        table.add_section()
    return table


def _cause_lines(cause: Cause) -> Iterator[str]:
    """What a cause changed, a line for each column."""
    if cause.kind != "row":
        return
    if cause.change == "edited":
        yield from _version_lines(cause.old, cause.new)
        return
    row = cause.old or cause.new
    # The instruction alone tells people which row is meant.
    for name in ["instruction"] if "instruction" in row else list(row):
        yield f"{name}: {_text_of(row[name])}"


def _version_lines(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    for name in dict.fromkeys([*old, *new]):
        yield f"{name}, old: {_text_of(old.get(name))}"
        yield f"{name}, new: {_text_of(new.get(name))}"


def _text_of(value: Any) -> str:
    """A value on one line; text as it is, hashes cut, anything else as JSON."""
    if isinstance(value, str):
        return shortened(value).replace("\n", "⏎")
    return json.dumps(value, ensure_ascii=False)
