"""Audit of what lies outside the database: checkpoint folders, and exported files."""

from __future__ import annotations

import json
from pathlib import Path

import duckdb

from refine_dagster.lineage.checkpoints import hash_manifest
from refine_dagster.lineage.content import file_hash, folder_files
from refine_dagster.lineage.findings import AuditReport
from refine_dagster.lineage.ledger import read_prunes
from refine_dagster.lineage.tables import TABLES


def check_checkpoints(
    connection: duckdb.DuckDBPyConnection, report: AuditReport, root: Path
) -> None:
    """Folders that live rows name, or all that are registered, hold the very files registered."""
    registered: dict[tuple[str, str], tuple[str, dict[str, str], int]] = {}
    manifests: dict[tuple[str, str], set[str]] = {}
    for asset, content_hash, manifest_hash, path, files, sequence in connection.execute(
        "SELECT asset, content_hash, manifest_hash, path, files, sequence "
        "FROM lineage.checkpoints ORDER BY sequence, asset, path"
    ).fetchall():
        listed = {file["path"]: file["sha256"] for file in files}
        registered[asset, content_hash] = (path, listed, sequence)
        manifests.setdefault((asset, manifest_hash), set()).add(content_hash)
    live = _live_checkpoints(connection)
    report.broken_each(
        (f"checkpoint {asset}/{content_hash[:16]}", "a live row names it, and it is not registered")
        for asset, content_hash in sorted(live - registered.keys())
    )
    pruned = max((prune.sequence for prune in read_prunes(connection)), default=0)
    for key, (path, listed, sequence) in registered.items():
        gone = key not in live and sequence < pruned and not (root / path).is_dir()
        if gone or (key not in live and not report.deep):
            continue
        report.looked_at("checkpoints", 1)
        _check_folder(report, root / path, f"checkpoints/{path}", listed)
    for (asset, manifest_hash), content_hashes in sorted(manifests.items()):
        note = root / asset / "manifests" / f"{manifest_hash}.json"
        if note.is_file() and not _true_note(note, manifest_hash, content_hashes):
            report.broken(
                f"checkpoints/{asset}/manifests/{note.name}",
                "does not name the checkpoint that is registered for its manifest",
            )


def check_exports(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Exported files that still lie where they were written have the bytes that left."""
    exported = connection.execute("SELECT path, sha256 FROM main.exports ORDER BY path").fetchall()
    for path, sha256 in exported:
        file = Path(path)
        if not file.is_file():
            report.skipped.append(f"an export that is no longer at {path}")
        elif file_hash(file) != sha256:
            report.warned(path, "is not as it was exported")
        report.looked_at("exports", 1)


def _live_checkpoints(connection: duckdb.DuckDBPyConnection) -> set[tuple[str, str]]:
    """(asset, content hash) of every checkpoint that a live row names."""
    named = connection.execute(
        " UNION ".join(
            f"SELECT '{table.asset}', checkpoint_hash FROM history.{name} "
            "WHERE removed_in IS NULL AND checkpoint_hash IS NOT NULL"
            for name, table in TABLES.items()
            if "checkpoint_hash" in table.columns
        )
    ).fetchall()
    return {(asset, content_hash) for asset, content_hash in named}


def _check_folder(report: AuditReport, folder: Path, place: str, listed: dict[str, str]) -> None:
    if not folder.is_dir():
        report.broken(place, "the folder is gone")
        return
    found = folder_files(folder)
    for path in sorted(listed.keys() | found.keys()):
        if path not in found:
            report.broken(f"{place}/{path}", "the file is gone")
        elif path not in listed:
            report.broken(f"{place}/{path}", "the file was not there when it was registered")
        elif found[path] != listed[path]:
            report.broken(f"{place}/{path}", "its bytes are not those that were registered")
        report.looked_at("checkpoint files", 1)


def _true_note(note: Path, manifest_hash: str, content_hashes: set[str]) -> bool:
    told = json.loads(note.read_text(encoding="utf-8"))
    if not isinstance(told, dict) or not {"content_hash", "manifest"} <= told.keys():
        return False
    return told["content_hash"] in content_hashes and (
        hash_manifest(told["manifest"]) == manifest_hash
    )
