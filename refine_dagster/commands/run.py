"""`refine-dagster run` and `status`: materialise the graph, and what it came to."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from refine_dagster.commands.output import console, existing_home, open_warehouse
from refine_dagster.errors import RefineError
from refine_dagster.home import Home, find_home


def run(
    select: Annotated[
        str, typer.Option(help="Assets to materialise, in Dagster's selection syntax.")
    ] = "*",
    profile: Annotated[
        str | None, typer.Option(help="offline, laptop, gpu, or a YAML file [REFINE_PROFILE].")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(help="A seed file or a folder of SUPER-NI tasks.")
    ] = None,
    target: Annotated[
        int | None, typer.Option(help="Accepted instructions at which stage 1 ends.")
    ] = None,
    knob: Annotated[
        list[str] | None,
        typer.Option("--set", help="A knob: reinforcement.steps=30. May be repeated."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, help="Seconds to wait for another run in this home to end.")
    ] = 0.0,
) -> None:
    """Materialise the graph and print a summary.

    Example: refine-dagster run --seeds my_seeds.jsonl --target 200
    """
    from refine_dagster.commands.terminal import showing_progress
    from refine_dagster.run import run_pipeline

    overrides = _overrides(seeds, target, knob or [])
    home = find_home()
    with showing_progress(console):
        run_pipeline(home, profile, overrides, select, wait)
    _summary(home)


def status() -> None:
    """Show what the last run came to: funnels, reward, evaluation, cost per asset.

    Example: refine-dagster status
    """
    _summary(existing_home())


def knob_overrides(config: list[str]) -> dict[str, Any]:
    """Dotted config field -> value, from texts such as `reinforcement.steps=30`.

    Raises:
        RefineError: a text has no `=`.
    """
    import yaml

    overrides: dict[str, Any] = {}
    for text in config:
        name, equals, value = text.partition("=")
        if not equals:
            raise RefineError(f"{text!r} is no knob", fix="write --set section.knob=value")
        overrides[name] = yaml.safe_load(value)
    return overrides


def _overrides(seeds: str | None, target: int | None, config: list[str]) -> dict[str, Any]:
    overrides = knob_overrides(config)
    if seeds is not None:
        overrides["seeds.path"] = seeds
    if target is not None:
        overrides["self_instruct.target"] = target
    return overrides


def _summary(home: Home) -> None:
    from refine_dagster.commands.summary import show_summary

    show_summary(console, open_warehouse(home), home)
