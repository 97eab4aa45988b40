"""`refine-dagster audit`: is everything as it was recorded?"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refine_dagster.commands.output import (
    FormatOption,
    ProfileOption,
    existing_home,
    open_warehouse,
    print_json,
    say,
)
from refine_dagster.errors import RefineError
from refine_dagster.home import Home

if TYPE_CHECKING:
    from refine_dagster.lineage.audit_report import AuditReport
    from refine_dagster.warehouse.heads import NotedHead
    from refine_dagster.warehouse.warehouse import Warehouse

DIGEST_DIGITS = 64

audit_app = typer.Typer(no_args_is_help=True, help="Is everything as it was recorded?")


@audit_app.command("verify")
def verify(
    deep: Annotated[
        bool, typer.Option("--deep", help="Past states, removed rows and exported files too.")
    ] = False,
    head: Annotated[
        list[str] | None,
        typer.Option(
            "--head",
            metavar="DIGEST",
            help="A head that was noted elsewhere (`audit head`). May be repeated.",
        ),
    ] = None,
    profile: ProfileOption = None,
    format: FormatOption = "text",
) -> None:
    """Check the ledger's hash chain, and tables, completions and checkpoint files against it.

    The ledger itself is compared with Dagster's event log, with the heads given, and with the file
    that `audit.witness` names. Ends with 1 if anything is broken; the first broken place comes
    first. Changes nothing.

    Example: refine-dagster audit verify --deep
    """
    from refine_dagster.config.profile import load_profile
    from refine_dagster.lineage.audit import verify as verify_home
    from refine_dagster.warehouse.warehouse import Warehouse

    home = existing_home()
    # Not brought up to date yet: whether it has to be is a finding.
    warehouse = Warehouse(home.warehouse, read_only=True)
    noted = _given(head or [])
    absent = None
    if witness := load_profile(profile).audit.witness_file:
        if Path(witness).is_file():
            noted += _witnessed(Path(witness), home)
        else:
            absent = f"the witness file {witness} is not there"
    report = verify_home(warehouse, home.checkpoints, deep, noted)
    _compare_with_dagster(home, warehouse, report)
    if absent:
        report.warned("audit.witness", absent)
    if format == "json":
        print_json({"whole": report.whole, **asdict(report)})
    else:
        _print(report)
    if not report.whole:
        raise typer.Exit(1)


@audit_app.command("head")
def head(format: FormatOption = "text") -> None:
    """Print the digest of the ledger's last entry. Note it elsewhere, for `verify --head`.

    Example: refine-dagster audit head
    """
    from refine_dagster.warehouse.heads import read_head

    home = existing_home()
    with open_warehouse(home).reading() as connection:
        last = read_head(connection)
    if last is None:
        raise RefineError("the ledger has no entry yet", where=str(home.warehouse))
    if format == "json":
        print_json(last)
    else:
        say(last.digest)


def _given(digests: list[str]) -> list[NotedHead]:
    from refine_dagster.warehouse.heads import NotedHead

    for digest in digests:
        if len(digest) != DIGEST_DIGITS or set(digest) - set("0123456789abcdef"):
            raise RefineError(
                "no digest of the ledger",
                where=f"--head {digest}",
                fix=f"give the {DIGEST_DIGITS} hex digits that `refine-dagster audit head` printed",
            )
    return [NotedHead(digest, "given") for digest in digests]


def _witnessed(witness: Path, home: Home) -> list[NotedHead]:
    from refine_dagster.warehouse.database import DatabaseFile
    from refine_dagster.warehouse.heads import heads_of, read_head

    with DatabaseFile(home.warehouse, read_only=True).connect() as connection:
        last = read_head(connection)
    return heads_of(witness, home.root, last.first if last else None)


def _compare_with_dagster(home: Home, warehouse: Warehouse, report: AuditReport) -> None:
    """Add what Dagster's event log says of the ledger."""
    from sqlalchemy.exc import DBAPIError

    from refine_dagster.run import prepare_dagster_home
    from resources.event_log import DagsterFilesError, files_error, open_instance
    from resources.ledger_events import contradicted, logged_entries

    if not home.dagster.is_dir():
        report.skipped.append("Dagster's event log, which is not there")
        return
    if not os.access(home.dagster, os.W_OK):
        report.skipped.append("Dagster's event log, which Dagster opens only where it may write")
        return
    prepare_dagster_home(home)
    try:
        with open_instance(home) as instance:
            logged = list(logged_entries(instance))
    except DagsterFilesError as error:
        report.broken("Dagster's event log", error.what)
        return
    except (DBAPIError, OSError) as error:
        report.broken("Dagster's event log", files_error(home, error).what)
        return
    report.broken_each(
        (f"Dagster's event of {entry}", what) for entry, what in contradicted(warehouse, logged)
    )
    report.looked_at("events of Dagster", len(logged))


def _print(report: AuditReport) -> None:
    for finding in report.findings:
        say(f"broken: {finding.place}: {finding.what}")
    for finding in report.warnings:
        say(f"warning: {finding.place}: {finding.what}")
    say("checked: " + ", ".join(f"{n} {what}" for what, n in report.checked.items()))
    for skipped in report.skipped:
        say(f"cannot be checked any more: {skipped}")
    say("whole" if report.whole else f"not whole: {len(report.findings)} broken places")
