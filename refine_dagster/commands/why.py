"""`refine-dagster why`: why an asset or a row is as it is, and what changed it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.options import FormatOption, OutputFormat
from refine_dagster.commands.output import (
    HASH_SHOWN,
    cause_lines,
    console,
    existing_home,
    open_warehouse,
    print_json,
    rich_table,
    say,
    text_of,
    version_lines,
)

if TYPE_CHECKING:
    from refine_dagster.lineage.causes import Cause
    from refine_dagster.lineage.changes import AssetChange
    from refine_dagster.lineage.timeline import Materialization
    from refine_dagster.lineage.why import AssetExplanation, Event, RowExplanation

REASONS_SHOWN = 12


def why(
    name: Annotated[
        str,
        typer.Argument(
            metavar="ASSET|ROW", help="An asset or table, or a row's id or its first digits."
        ),
    ],
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Say what was reused, what was made again, and because of which change.

    Example: refine-dagster why instruction_dataset
    """
    from refine_dagster.lineage.why import AssetExplanation, explain

    explanation = explain(open_warehouse(existing_home()), name)
    if format is OutputFormat.JSON:
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
            say(f"{name}: {text_of(row.payload[name])}")
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


def _print_changes(title: str, change: AssetChange) -> None:
    if not change.is_empty:
        say(title)
    for kind, differences in (("input", change.inputs), ("file", change.files)):
        for hashes in differences:
            say(f"  {kind} {hashes.name}: {_short(hashes.old)} → {_short(hashes.new)}")
    for field in change.config:
        say(f"  config {field.name}: {text_of(field.old)} → {text_of(field.new)}")
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
