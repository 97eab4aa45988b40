"""`refine-dagster forget`: the text of a removed seed leaves the home."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.output import existing_home, open_warehouse, say
from refine_dagster.commands.upkeep import lines_of, run_lock

if TYPE_CHECKING:
    from refine_dagster.lineage.forget import ForgetPlan, Forgotten
    from refine_dagster.lineage.text_search import Left


def forget(
    seed: Annotated[str, typer.Argument(help="A removed seed's seed_id, or a row_id of it.")],
    former: Annotated[
        Path | None,
        typer.Option("--from", help="A seed file that has it, if the history has it no more."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="Do it; by default only say where its text stands.")
    ] = False,
) -> None:
    """Take a removed seed's text out of the home, then search every byte and say what is left.

    It prunes, deletes exported files that have rows made from the seed, redacts manifests and
    Dagster's logs, and writes the database again. Ends with 1 if something is left.

    Example: refine-dagster forget seed_task_7 --yes
    """
    from refine_dagster.lineage.forget import apply, plan, search

    home = existing_home()
    if yes:
        with run_lock(home):
            found = plan(open_warehouse(home), seed, former)
            done = apply(home, seed, former)
        _say_plan(found)
        _say_done(done, home.checkpoints)
        left: tuple[Left, ...] = done.left
        kept = [export for export in done.exports if not export.same]
        if left or kept:
            raise typer.Exit(1)
        return
    found = plan(open_warehouse(home), seed, former)
    _say_plan(found)
    for place in search(home, found.pieces):
        say(f"now in {place.place}: {place.what}")
    say("nothing was changed; do it with --yes")


def _say_plan(found: ForgetPlan) -> None:
    say(f"versions in the history: {len(found.rows)}")
    say(f"texts searched for: {len(found.pieces)}")
    if found.short:
        say(f"texts too short to be searched for: {found.short}")
    if found.shared:
        say(f"texts that live seeds have too, which stay: {found.shared}")
    for path in found.models:
        say(f"a model was trained on it: checkpoints/{path}")
    for export in found.exports:
        how = "" if export.same else ", gone or changed since: see to it yourself"
        say(f"an exported file has rows made from it: {export.path}{how}")


def _say_done(done: Forgotten, checkpoints: Path) -> None:
    for line in lines_of(done.pruned, checkpoints):
        say(line)
    say(f"cells and lines of Dagster's logs redacted: {done.cells}")
    for place in done.left:
        say(f"left in {place.place}: {place.what}")
    say("something is left" if done.left else "no byte of the home has a text searched for")
