"""`refine-dagster audit`: does what is stored still say what was recorded when it was made?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from refine_dagster.commands.options import FormatOption, OutputFormat
from refine_dagster.commands.output import existing_home, open_warehouse, print_json, say

audit_app = typer.Typer(no_args_is_help=True, help="Is everything as it was recorded?")


@audit_app.command("verify")
def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Past states, removed rows and exported files too.")
    ] = False,
    format: FormatOption = OutputFormat.TEXT,
) -> None:
    """Check the ledger's hash chain, and tables, completions and checkpoint files against it.

    Ends with 1 if anything is broken; the first broken place comes first. Changes nothing.

    Example: refine-dagster audit verify --deep
    """
    from refine_dagster.lineage.audit import verify as verify_home

    home = existing_home()
    report = verify_home(open_warehouse(home), home.checkpoints, deep)
    if format is OutputFormat.JSON:
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
