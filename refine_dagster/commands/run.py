"""`refine-dagster run` and `status`: materialise the graph, and show the result."""

from __future__ import annotations

from typing import Annotated

import typer

from refine_dagster.commands.options import ProfileOption, SeedsOption, SetOption, overrides_of
from refine_dagster.commands.output import console, existing_home
from refine_dagster.home import find_home


def run(
    select: Annotated[
        str, typer.Option(help="Assets to materialise, in Dagster's selection syntax.")
    ] = "*",
    profile: ProfileOption = None,
    seeds: SeedsOption = None,
    target: Annotated[
        int | None,
        typer.Option(help="Accepted instructions at which stage 1 ends: self_instruct.target."),
    ] = None,
    settings: SetOption = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another run in this home to end.")
    ] = 0.0,
) -> None:
    """Materialise the graph and print a summary.

    Example: refine-dagster run --seeds my_seeds.jsonl --target 200
    """
    from refine_dagster.commands.summary import show_summary
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.run import run_pipeline

    overrides = overrides_of(settings, seeds__path=seeds, self_instruct__target=target)
    home = find_home()
    with showing_progress(console):
        run_pipeline(home, profile, overrides, select, wait)
    show_summary(home)


def status() -> None:
    """Show the result of the last run: funnels, reward, evaluation, cost per asset.

    Example: refine-dagster status
    """
    from refine_dagster.commands.summary import show_summary

    show_summary(existing_home())
