"""`refine-dagster trace` and `impact`: where a row came from, and what a seed touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refine_dagster.commands.output import (
    FormatOption,
    console,
    existing_home,
    open_warehouse,
    print_json,
    rich_table,
    say,
    say_lines,
)

if TYPE_CHECKING:
    from refine_dagster.lineage.impact import Impact, SeedVersion


def trace(
    row: Annotated[str, typer.Argument(help="A row_id, or its first 6 or more digits.")],
    down: Annotated[
        bool, typer.Option("--down", help="Follow what came of the row, not where it came from.")
    ] = False,
    format: Annotated[
        Literal["tree", "json", "mermaid", "dot"],
        typer.Option(help="A tree to read, or text for other tools."),
    ] = "tree",
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
    if format == "json":
        print_json(as_json(graph))
    elif format == "tree":
        console.print(as_tree(graph, everything=everything), highlight=False)
        edges = graph.edges.height
        say(f"{graph.rows.height - 1} {graph.kin}, {edges} edges; row {graph.asked.row_id}")
        if graph.completion is not None:
            _print_call(graph.completion)
    else:
        draw = as_dot if format == "dot" else as_mermaid
        say_lines(draw(graph, everything=everything))


def _print_call(call: dict[str, Any]) -> None:
    console.rule("the model call behind it", align="left")
    for name in ("role", "model", "seed", "sampling", "finish_reason"):
        say(f"{name}: {call[name]}")
    for name, value in call.get("server", {}).items():
        if value is not None:
            say(f"server's {name}: {value}")
    for name in ("prompt", "text"):
        console.rule(name, align="left")
        say(call[name])


def impact(
    seed: Annotated[
        str, typer.Argument(help="A seed_id, or a row_id of a seed task, or its first 6 digits.")
    ],
    as_of: Annotated[
        int | None, typer.Option(min=0, help="After this materialization, instead of now.")
    ] = None,
    format: FormatOption = "text",
) -> None:
    """Show what a seed task touched: rows, dataset, checkpoints, exports; removed seeds too.

    Example: refine-dagster impact seed_task_7 --as-of 12
    """
    from refine_dagster.lineage import impact as engine

    touched = engine.impact(open_warehouse(existing_home()), seed, as_of)
    if format == "json":
        print_json(touched.as_json())
    else:
        _print_impact(touched)


def _print_impact(touched: Impact) -> None:
    now = touched.as_of == touched.latest
    say(f"as of {'now, ' if now else ''}materialization {touched.as_of} of {touched.latest}")
    for version in touched.seeds:
        say(f"seed {version.seed_id}, row {version.row_id}, {_life(version)}")
        say(f"    {version.instruction}")
    for version in touched.others:
        say(f"not counted: version {version.row_id}, {_life(version)}; ask for it by that id")
    _print_table(
        "Rows that descend from it",
        ("table", "shown", "trained", "compared", "of", "ever"),
        [(t.table, t.shown, t.trained, t.compared, t.of, t.ever) for t in touched.tables],
    )
    if touched.dataset:
        data = touched.dataset
        say(
            f"dataset {data.data_version[:12]} (materialization {data.sequence}): "
            f"{data.rows} of {data.of} rows descend from it"
        )
    _print_table(
        "Checkpoints of that time",
        ("asset", "checkpoint", "path", "how", "live now"),
        [
            (use.asset, use.content_hash[:12], use.path, use.how, "yes" if use.live else "no")
            for use in touched.checkpoints
        ],
    )
    _print_table(
        "Exported files",
        ("path", "format", "dataset", "rows", "of"),
        [
            (file.path, file.format, file.data_version[:12], file.rows, file.of)
            for file in touched.exports
        ],
    )
    _print_table(
        "Live checkpoints that were trained on it",
        ("asset", "checkpoint", "path"),
        [(use.asset, use.content_hash[:12], use.path) for use in touched.live_checkpoints],
    )


def _life(version: SeedVersion) -> str:
    gone = "live" if version.removed_in is None else f"removed in {version.removed_in}"
    return f"added in {version.added_in}, {gone}"


def _print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    if rows:
        console.print(rich_table(title, columns, rows))
    else:
        say(f"{title}: none")
