"""`refine-dagster prune`: what does nothing need?"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from refine_dagster.commands.output import existing_home, open_warehouse, say
from refine_dagster.home import Home

if TYPE_CHECKING:
    from refine_dagster.lineage.prune import PrunePlan


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
    warehouse = open_warehouse(home, write=yes)
    if yes:
        with run_lock(home):
            dropped = apply(warehouse, home.checkpoints)
    else:
        dropped = plan(warehouse, home.checkpoints)
    for line in lines_of(dropped, home.checkpoints):
        say(line)


@contextmanager
def run_lock(home: Home) -> Iterator[None]:
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


def lines_of(plan: PrunePlan, root: Path) -> list[str]:
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
