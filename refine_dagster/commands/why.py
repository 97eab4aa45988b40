"""`refine-dagster why`: what an asset or a row is there for, and what changed it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.output import (
    HASH_SHOWN,
    OutputFormat,
    cause_lines,
    console,
    existing_home,
    open_warehouse,
    print_json,
    say,
    text_of,
    version_lines,
)

if TYPE_CHECKING:
    from refine_dagster.lineage.changes import AssetChange, Cause, Materialization
    from refine_dagster.lineage.why import AssetExplanation, Event, RowExplanation

REASONS_SHOWN = 12


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ASSET|ROW", help="An asset or table, or a row's id or its first digits."
        ),
    ],
    format: Annotated[OutputFormat, typer.Option(help="Layout.")] = OutputFormat.TEXT,
) -> None:
    """Say what was reused, what was made anew, and because of which change.

    Example: refine-dagster why instruction_dataset
    """
    from refine_dagster.lineage.why import AssetExplanation, explain

    told = explain(open_warehouse(existing_home()), name)
    if format is OutputFormat.JSON:
        print_json(told)
    elif isinstance(told, AssetExplanation):
        _print_asset(told)
    else:
        _print_row(told)


def _print_asset(told: AssetExplanation) -> None:
    import polars as pl

    from refine_dagster.commands.summary import rich_table

    say(f"{told.asset}, {_when(told.last)}")
    if told.since is not None:
        say(f"unchanged since {_when(told.made)}")
        _print_list("Its inputs and config since then", _changes(told.since))
    tables = pl.DataFrame(
        {
            "table": [one.table for one in told.tables],
            "rows": [one.total for one in told.tables],
            "added": [one.added for one in told.tables],
            "removed": [one.removed for one in told.tables],
            "reused": [one.reused for one in told.tables],
        }
    )
    console.print(rich_table(None, tables))
    for use in told.requests:
        say(f"{use.role} requests: {use.asked} asked, {use.reused} reused, {use.sent} sent")
    for one in told.checkpoints:
        how = "trained" if one.trained else "reused"
        say(f"checkpoint {one.content_hash[:HASH_SHOWN]}: {how}")
    if told.change.is_first:
        say("made from nothing: there is no earlier materialization")
        return
    if told.pruned:
        say("rows of the time before were pruned: what follows is told from those that are left")
    _print_list(f"Changed since materialization {told.change.before}", _changes(told.change))
    say("Because of")
    told_of: set[str] = set()
    for counted in told.reasons[:REASONS_SHOWN]:
        say(f"  {counted.reason.label}: {counted.rows} {'row' if counted.rows == 1 else 'rows'}")
        if counted.reason.cause.label not in told_of:
            _print_details(counted.reason.cause)
        told_of.add(counted.reason.cause.label)
    _say_rest(len(told.reasons))


def _print_row(told: RowExplanation) -> None:
    say(f"{told.table} {told.row_id}")
    if told.key:
        say(f"key: {told.key}")
    for name in ("instruction", "input", "output"):
        if told.payload.get(name):
            say(f"{name}: {text_of(told.payload[name])}")
    for added, removed in told.earlier:
        say(f"was there before: added in {added}, removed in {removed}")
    say()
    say(f"added in {_when(told.added.by)}")
    if told.completion is not None:
        how = {True: "sent", False: "reused from the store", None: "not recorded as used"}
        by = f", first sent by run {told.completion.sent_by}" if told.completion.sent_by else ""
        key = told.completion.key[:HASH_SHOWN]
        say(f"  its completion {key} was {how[told.completion.sent]}{by}")
    _print_event(told.added, "replaced")
    if told.kept:
        say(f"kept as it is by {told.kept} later materializations of {told.asset}")
    say()
    if told.removed is None:
        say("live")
    else:
        say(f"removed in {_when(told.removed.by)}")
        _print_event(told.removed, "was replaced by")


def _print_event(event: Event, verb: str) -> None:
    if event.change.is_first:
        say("  made from nothing: the first materialization of its asset")
        return
    if event.other_id is None:
        say("  no row with the same key was " + ("removed" if verb == "replaced" else "added"))
    else:
        say(f"  it {verb} {event.other_id}")
        for line in version_lines(event.old, event.new) if verb == "replaced" else ():
            say(f"    {line}")
    say("  because of")
    for reason in event.reasons[:REASONS_SHOWN]:
        say(f"    {reason.label}")
        _print_details(reason.cause, indent=6)
    _say_rest(len(event.reasons))


def _print_details(cause: Cause, indent: int = 4) -> None:
    for line in cause_lines(cause):
        say(" " * indent + line)
    if cause.old_id and cause.new_id:
        say(" " * indent + f"row {cause.new_id} replaced {cause.old_id}")


def _print_list(title: str, lines: Iterator[str]) -> None:
    listed = list(lines)
    if listed:
        say(title)
        for line in listed:
            say(f"  {line}")


def _changes(change: AssetChange) -> Iterator[str]:
    for one in change.inputs:
        yield f"input {one.name}: {_short(one.old)} → {_short(one.new)}"
    for one in change.files:
        yield f"file {one.name}: {_short(one.old)} → {_short(one.new)}"
    for one in change.config:
        yield f"config {one.name}: {text_of(one.old)} → {text_of(one.new)}"
    if change.code is not None:
        yield f"code: revision {change.code.old} → {change.code.new}"


def _say_rest(total: int) -> None:
    if total > REASONS_SHOWN:
        say(f"  and {total - REASONS_SHOWN} more; `--format json` lists all")


def _short(version: str | None) -> str:
    return version[:HASH_SHOWN] if version else "none"


def _when(one: Materialization) -> str:
    return f"materialization {one.sequence} (run {one.run_id}, {one.finished_at[:19]} UTC)"
