"""`refine-dagster audit`: does what is stored still say what was recorded when it was made?"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.output import console, existing_home, open_warehouse

if TYPE_CHECKING:
    from refine_dagster.lineage.audit_rows import AuditReport

audit_app = typer.Typer(no_args_is_help=True, help="Is everything as it was recorded?")


class ReportFormat(StrEnum):
    """Formats of the report."""

    TEXT = "text"
    JSON = "json"


@audit_app.callback()
def audit() -> None:
    """Is everything as it was recorded?"""


@audit_app.command("verify")
def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Past states, rows that are gone, exported files too.")
    ] = False,
    format: Annotated[ReportFormat, typer.Option(help="Layout.")] = ReportFormat.TEXT,
) -> None:
    """Check the ledger's hash chain, and tables, completions and checkpoint files against it.

    Ends with 1 if anything is broken; the first broken place comes first. Changes nothing.

    Example: refine-dagster audit verify --deep
    """
    from refine_dagster.lineage.audit import verify as verify_home

    home = existing_home()
    report = verify_home(open_warehouse(home), home.checkpoints, deep)
    if format is ReportFormat.JSON:
        _print(_as_json(report))
    else:
        _print(_as_text(report))
    if not report.whole:
        raise typer.Exit(1)


def _as_text(report: AuditReport) -> str:
    lines = [f"broken: {found.place}: {found.what}" for found in report.findings]
    lines += [f"warning: {found.place}: {found.what}" for found in report.warnings]
    lines.append("checked: " + ", ".join(f"{n} {what}" for what, n in report.checked.items()))
    lines += [f"not told any more: {skipped}" for skipped in report.skipped]
    lines.append("whole" if report.whole else f"not whole: {len(report.findings)} broken places")
    return "\n".join(lines)


def _as_json(report: AuditReport) -> str:
    import json
    from dataclasses import asdict

    return json.dumps({"whole": report.whole, **asdict(report)}, indent=1, ensure_ascii=False)


def _print(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
