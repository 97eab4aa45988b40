"""`refine-dagster audit` and `prune`: is everything as recorded, and what does nothing need?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from refine_dagster.commands.output import (
    FormatOption,
    existing_home,
    open_warehouse,
    print_json,
    say,
)
from refine_dagster.home import Home

if TYPE_CHECKING:
    from refine_dagster.lineage.prune import PrunePlan

audit_app = typer.Typer(no_args_is_help=True, help="Is everything as it was recorded?")


@audit_app.command("verify")
def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Past states, removed rows and exported files too.")
    ] = False,
    format: FormatOption = "text",
) -> None:
    """Check the ledger's hash chain, and tables, completions and checkpoint files against it.

    Ends with 1 if anything is broken; the first broken place comes first. Changes nothing.

    Example: refine-dagster audit verify --deep
    """
    from refine_dagster.lineage.audit import verify as verify_home

    home = existing_home()
    report = verify_home(open_warehouse(home), home.checkpoints, deep)
    if format == "json":
        print_json({"whole": report.whole, **asdict(report)})
    else:
        for finding in report.findings:
            say(f"broken: {finding.place}: {finding.what}")
        for finding in report.warnings:
            say(f"warning: {finding.place}: {finding.what}")
        say("checked: " + ", ".join(f"{n} {what}" for what, n in report.checked.items()))
        for skipped in report.skipped:
            say(f"cannot be checked any more: {skipped}")
        say("whole" if report.whole else f"not whole: {len(report.findings)} broken places")
    if not report.whole:
        raise typer.Exit(1)


def prune(
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; by default only say what it would drop.")
    ] = False,
) -> None:
    """Drop completions, removed rows and checkpoint folders that nothing live refers to.

    Afterwards the history starts at the last dropped row. Stops if a run works in this home.

    Example: refine-dagster prune --yes
    """
    from refine_dagster.lineage.prune import apply, plan

    home = existing_home()
    warehouse = open_warehouse(home)
    if yes:
        with _run_lock(home):
            dropped = apply(warehouse, home.checkpoints)
    else:
        dropped = plan(warehouse, home.checkpoints)
    for line in _lines(dropped, home.checkpoints):
        say(line)


@contextmanager
def _run_lock(home: Home) -> Iterator[None]:
    """Hold the home as a run does: no row names a run's new checkpoints before it commits."""
    from refine_dagster.warehouse.run_lock import holding_run_lock

    with holding_run_lock(home.root, f"prune-{uuid4()}") as cut_off:
        if cut_off:
            from dagster import DagsterInstance

            from refine_dagster.run import prepare_dagster_home
            from resources.warehouse import end_run_that_was_cut_off

            prepare_dagster_home(home)
            with DagsterInstance.get() as instance:
                end_run_that_was_cut_off(instance, cut_off)
        yield


def _lines(plan: PrunePlan, root: Path) -> list[str]:
    if plan.empty:
        return ["there is nothing to drop"]
    lines = [
        f"completions that no asset's last materialization used: {plan.completions}"
        + (f", {plan.unvouched} of them never used" if plan.unvouched else ""),
        f"rows that were removed and that no live row was made from: {sum(plan.rows.values())}"
        + (f" ({', '.join(f'{n} {table}' for table, n in plan.rows.items())})" * bool(plan.rows)),
        f"files and folders that no row names: {len(plan.paths)}",
        *(f"  {path.relative_to(root)}" for path in plan.paths),
        f"size: {plan.stored_bytes / 1e6:.1f} MB in the database, "
        f"{plan.file_bytes / 1e6:.1f} MB in files",
    ]
    if plan.horizon:
        lines.append(
            f"oldest state that can be shown afterwards: as of materialization {plan.horizon + 1}"
        )
    if plan.sequence is None:
        return [*lines, "nothing was dropped; do it with --yes"]
    return [*lines, f"dropped, and recorded as materialization {plan.sequence}"]
