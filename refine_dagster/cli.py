"""The `refine-dagster` command.

Commands import what they need when they run, so that `--help` is quick. A `RefineError` is printed
without a traceback and ends with exit code 1; Ctrl-C ends with 130 and loses nothing that was
answered; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from refine_dagster.commands.door import console, existing_home, open_warehouse
from refine_dagster.errors import RefineError
from refine_dagster.home import Home, find_home

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Seed tasks in, instruction dataset and fine-tuned model out.",
)
seeds_app = typer.Typer(no_args_is_help=True, help="Seed files.")
app.add_typer(seeds_app, name="seeds")

# Columns a table cell needs, its border included, before words are broken up.
NARROWEST = 14
DEFINITIONS = "refine_dagster.definitions"
errors = Console(stderr=True)

INTERRUPTED = 130


class ExportFormat(StrEnum):
    """Formats of `export`."""

    ALPACA = "alpaca"
    MESSAGES = "messages"
    PARQUET = "parquet"


def main() -> None:
    """Run the command line."""
    try:
        app()
    except RefineError as error:
        errors.print(f"[bold red]error:[/] {_escaped(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer turns Ctrl-C inside a command into an exit.
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        errors.print("stopped; what was finished is kept, run again to go on")
        sys.exit(INTERRUPTED)


@app.command()
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
) -> None:
    """Materialise the graph and print a summary.

    Example: refine-dagster run --seeds my_seeds.jsonl --target 200
    """
    overrides = _overrides(seeds, target, knob or [])
    home = find_home()
    from refine_dagster.pipeline import run_pipeline
    from refine_dagster.terminal import showing_progress

    with showing_progress(console):
        run_pipeline(home, profile, overrides, select)
    _summary(home)


@app.command()
def status() -> None:
    """Show what the last run came to: funnels, reward, evaluation, cost per asset.

    Example: refine-dagster status
    """
    _summary(existing_home())


@seeds_app.command("check")
def seeds_check(
    file: Annotated[str, typer.Argument(help="A seed file or a folder of SUPER-NI tasks.")],
) -> None:
    """Report every problem of a seed file, with file, line and field.

    Example: refine-dagster seeds check my_seeds.jsonl
    """
    from refine_dagster.seeds.readers import check_seeds, read_seeds

    problems = check_seeds(file)
    for problem in problems:
        console.print(str(problem), markup=False, highlight=False, soft_wrap=True)
    if any(problem.severity == "error" for problem in problems):
        raise typer.Exit(1)
    found = read_seeds(file)
    console.print(f"{len(found.seeds)} seed tasks, {len(problems)} warnings", highlight=False)


@app.command()
def show(
    table: Annotated[str, typer.Argument(help="A table, a staging view or a mart.")],
    limit: Annotated[int, typer.Option(min=1, help="Rows shown.")] = 20,
) -> None:
    """Show the live rows of a table.

    Example: refine-dagster show instruction_dataset --limit 5
    """
    from refine_dagster.summary import rich_records, rich_table

    warehouse = open_warehouse(existing_home())
    home_of = warehouse.relations()
    if table not in home_of:
        raise RefineError(f"there is no table {table!r}", fix=f"one of {', '.join(home_of)}")
    total = warehouse.query(f"SELECT count(*) FROM {home_of[table]}").item()
    rows = warehouse.query(
        f"SELECT COLUMNS(lambda c: c <> 'parents') FROM {home_of[table]} LIMIT {limit}"
    )
    shown = rich_table if rows.width * NARROWEST <= console.width else rich_records
    console.print(shown(f"{table}: {rows.height} of {total} rows", rows))


@app.command()
def export(
    to: Annotated[Path, typer.Option(help="The file to write.")],
    format: Annotated[ExportFormat, typer.Option(help="Layout of the rows.")] = ExportFormat.ALPACA,
    overwrite: Annotated[bool, typer.Option(help="Replace an existing file.")] = False,
) -> None:
    """Write the instruction dataset to a file that `datasets.load_dataset` reads.

    Example: refine-dagster export --format messages --to dataset.jsonl
    """
    from refine_dagster.export import export_dataset

    warehouse = open_warehouse(existing_home())
    version = warehouse.data_version("instruction_dataset")
    if version is None:
        raise RefineError(
            "there is no instruction_dataset yet", fix="run `refine-dagster run` first"
        )
    rows = warehouse.read("instruction_dataset")
    result = export_dataset(rows, format.value, to, overwrite=overwrite, data_version=version)
    for written in result.files:
        console.print(f"wrote {written}", highlight=False, soft_wrap=True)
    console.print(f"{result.rows} rows, sha256 {result.sha256}", highlight=False, soft_wrap=True)


@app.command()
def ui(
    port: Annotated[int, typer.Option(help="Port of the web server.")] = 3000,
    host: Annotated[str, typer.Option(help="Address of the web server.")] = "127.0.0.1",
) -> None:
    """Open the Dagster UI on this project, with runs kept under REFINE_HOME.

    Example: refine-dagster ui --port 3001
    """
    from refine_dagster.pipeline import prepare_dagster_home

    home = find_home()
    prepare_dagster_home(home)
    os.environ["REFINE_HOME"] = str(home.root)
    command = [sys.executable, "-m", "dagster", "dev", "--host", host, "--port", str(port)]
    command += ["-w", "workspace.yaml"] if _our_workspace() else ["-m", DEFINITIONS]
    os.execv(sys.executable, command)


def _overrides(seeds: str | None, target: int | None, knobs: list[str]) -> dict[str, Any]:
    import yaml

    overrides: dict[str, Any] = {}
    for text in knobs:
        name, equals, value = text.partition("=")
        if not equals:
            raise RefineError(f"{text!r} is no knob", fix="write --set section.knob=value")
        overrides[name] = yaml.safe_load(value)
    if seeds is not None:
        overrides["seeds.path"] = seeds
    if target is not None:
        overrides["self_instruct.target"] = target
    return overrides


def _summary(home: Home) -> None:
    from refine_dagster.summary import show_summary

    show_summary(console, open_warehouse(home), home)


def _our_workspace() -> bool:
    """Whether the current folder has a workspace that loads this project, and not another one."""
    workspace = Path("workspace.yaml")
    return workspace.is_file() and DEFINITIONS in workspace.read_text(encoding="utf-8")


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


if __name__ == "__main__":
    main()
