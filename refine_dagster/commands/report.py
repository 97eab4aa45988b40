"""`refine-dagster report`: the page on what was made, how, and how sure we are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from refine_dagster.commands.output import existing_home, open_warehouse, say


def report(
    to: Annotated[
        Path | None, typer.Option(help="The HTML file to write; by default in the home.")
    ] = None,
) -> None:
    """Write one self-contained HTML page on what was made, how, and how sure we are.

    Figures whose inputs have changed since are marked. The page loads nothing and runs no script.

    Example: refine-dagster report --to report.html
    """
    from refine_dagster.report.page import write_report

    home = existing_home()
    path = to or home.report
    made = write_report(open_warehouse(home), path)
    say(f"wrote {path}")
    if made.stale:
        say(f"out of date: {', '.join(made.stale)}")
