"""`refine-dagster trace`: where a row came from, or what came of it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from refine_dagster.commands.output import console, existing_home, open_warehouse, print_json, say


class TraceFormat(StrEnum):
    """What `trace` prints."""

    TREE = "tree"
    JSON = "json"
    MERMAID = "mermaid"
    DOT = "dot"


def trace(
    row: Annotated[str, typer.Argument(help="A row_id, or its first 6 or more digits.")],
    down: Annotated[
        bool, typer.Option("--down", help="Follow what came of the row, not where it came from.")
    ] = False,
    format: Annotated[
        TraceFormat, typer.Option(help="A tree to read, or text for other tools.")
    ] = TraceFormat.TREE,
    everything: Annotated[
        bool, typer.Option("--all", help="List large groups, and open every row.")
    ] = False,
) -> None:
    """Trace a row through policy, judge, prompts and demonstrations to the seeds.

    Example: refine-dagster trace 0d7222cd --format mermaid
    """
    from refine_dagster.lineage import trace as engine
    from refine_dagster.lineage.trace_text import as_dot, as_json, as_mermaid, as_tree

    graph = engine.trace(open_warehouse(existing_home()), row, down=down)
    if format is TraceFormat.JSON:
        print_json(as_json(graph))
    elif format is TraceFormat.TREE:
        console.print(as_tree(graph, everything=everything), highlight=False)
        edges = graph.edges.height
        say(f"{graph.rows.height - 1} {graph.kin}, {edges} edges; row {graph.asked.row_id}")
        if graph.completion is not None:
            _print_call(graph.completion)
    else:
        draw = as_dot if format is TraceFormat.DOT else as_mermaid
        typer.echo(draw(graph, everything=everything), nl=False)


def _print_call(call: dict[str, Any]) -> None:
    console.rule("the model call behind it", align="left")
    for name in ("role", "model", "seed", "sampling", "finish_reason"):
        say(f"{name}: {call[name]}")
    for name in ("prompt", "text"):
        console.rule(name, align="left")
        say(call[name])
