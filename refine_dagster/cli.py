"""The `refine-dagster` command.

Subcommands live in `commands/` and import what they need when they run, so that `--help` is quick.
A `RefineError` is printed without a traceback and ends with exit code 1; Ctrl-C ends with 130 and
loses no answer of a model; any other exception is a bug and keeps its traceback.
"""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.text import Text

from refine_dagster import progress
from refine_dagster.commands.ask import ask
from refine_dagster.commands.audit import audit_app
from refine_dagster.commands.changes import diff, why
from refine_dagster.commands.compare import compare
from refine_dagster.commands.config import config_app
from refine_dagster.commands.export import export
from refine_dagster.commands.files import dedupe, seeds_app
from refine_dagster.commands.forget import forget
from refine_dagster.commands.model import model_app
from refine_dagster.commands.plan import plan
from refine_dagster.commands.report import report
from refine_dagster.commands.run import run, status, ui
from refine_dagster.commands.screen import screen
from refine_dagster.commands.tables import show
from refine_dagster.commands.trace import impact, trace
from refine_dagster.commands.upkeep import prune
from refine_dagster.errors import RefineError
from refine_dagster.escapes import terminal_text

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Seed tasks in, instruction dataset and fine-tuned model out.",
)
for command in (
    run,
    plan,
    status,
    ui,
    report,
    screen,
    show,
    export,
    why,
    trace,
    impact,
    diff,
    compare,
    prune,
    forget,
    ask,
    dedupe,
):
    app.command()(command)
app.add_typer(config_app, name="config")
app.add_typer(audit_app, name="audit")
app.add_typer(seeds_app, name="seeds")
app.add_typer(model_app, name="model")

errors = Console(stderr=True)

INTERRUPTED = 130


def main() -> None:
    try:
        with progress.reporting(progress.NoteReporter(_note)):
            app()
    except RefineError as error:
        errors.print(
            Text.assemble(("error:", "bold red"), f" {terminal_text(str(error))}"), soft_wrap=True
        )
        sys.exit(1)
    except (KeyboardInterrupt, SystemExit) as stop:
        # Typer turns Ctrl-C inside a command into an exit.
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        errors.print("stopped; what was finished is kept, run again to continue")
        sys.exit(INTERRUPTED)


def _note(message: str) -> None:
    errors.print(terminal_text(message), markup=False, highlight=False, soft_wrap=True)


if __name__ == "__main__":
    main()
