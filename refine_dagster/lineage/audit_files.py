"""Audit of what lies among the checkpoints and was not registered: links, pipes, other folders."""

from __future__ import annotations

from pathlib import Path

import duckdb

from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.lineage.checkpoint_files import (
    MANIFESTS,
    RESUME,
    SET_ASIDE,
    empty_folders,
    entries,
    foreign_entries,
)

# A training fills a folder whose name begins with this.
PARTIAL = ".partial-"


def check_entries(connection: duckdb.DuckDBPyConnection, report: AuditReport, root: Path) -> None:
    """Nothing here is a link or a device, and no registered folder has an empty one in it.

    A folder that is not registered may be that of a run that was cut off: it is a warning.
    """
    report.broken_each((_name(path, root), f"is {what}") for path, what in foreign_entries(root))
    registered = {
        path for (path,) in connection.execute("SELECT path FROM lineage.checkpoints").fetchall()
    }
    for path in entries(root):
        if path.is_symlink():
            continue
        if path.relative_to(root).as_posix() in registered:
            report.broken_each(
                (_name(empty, root), "is an empty folder, and was not registered")
                for empty in empty_folders(path)
            )
        elif path.name == SET_ASIDE:
            report.warned(_name(path, root), "was dropped by a prune that was cut off; prune again")
        elif path.name not in (MANIFESTS, RESUME) and not path.name.startswith(PARTIAL):
            report.warned(_name(path, root), "is registered nowhere; nothing reads it")


def _name(path: Path, root: Path) -> str:
    return f"checkpoints/{path.relative_to(root).as_posix()}"
