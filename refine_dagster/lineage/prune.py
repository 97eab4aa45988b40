"""Prune: drop what nothing live refers to, and record that in the ledger.

Dropped are: completions that no asset's last materialization used; rows that were removed from
their table, unless a live row was made from them, and their edges; checkpoint folders that no
remaining row names; what a killed training left. Ledger rows stay.

Rows go in one transaction with the ledger row of the prune; files are deleted after it, and what a
kill leaves of them the next prune drops.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import uuid4

import duckdb

from refine_dagster.hashing import content_id, json_hash
from refine_dagster.warehouse.ledger import PRUNE, Commit, Record, next_link, write_record
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import MODELS, TABLES, asset_sql
from refine_dagster.warehouse.warehouse import Warehouse

# A file that no record names may belong to a running training, unless it is this old.
ABANDONED_AFTER_S = 3600.0
MANIFESTS = "manifests"


@dataclass(frozen=True)
class PrunePlan:
    """What a prune drops.

    Attributes:
        unvouched: completions among these that no finished materialization ever used.
        rows: table -> rows that were removed from it.
        horizon: of states up to and including this materialization, some rows will be gone; 0 if
            no row is dropped.
        sequence: of the prune in the ledger; None before it is done.
    """

    completions: int
    unvouched: int
    rows: dict[str, int]
    edges: int
    paths: tuple[Path, ...]
    stored_bytes: int
    file_bytes: int
    horizon: int
    sequence: int | None = None

    @property
    def empty(self) -> bool:
        return not (self.completions or any(self.rows.values()) or self.edges or self.paths)


def plan(warehouse: Warehouse, checkpoints_root: Path) -> PrunePlan:
    """Find what a prune would drop now; nothing is changed."""
    with warehouse.connect() as connection:
        connection.execute("BEGIN TRANSACTION")
        dropped = _drop_rows(connection, checkpoints_root)
        connection.execute("ROLLBACK")
        return dropped


def apply(warehouse: Warehouse, checkpoints_root: Path) -> PrunePlan:
    """Drop it; the plan that was carried out, with its sequence if anything was dropped.

    Raises:
        OSError: a file cannot be deleted; the next prune tries again.
    """
    with warehouse.connect() as connection:
        connection.execute("BEGIN TRANSACTION")
        dropped = _drop_rows(connection, checkpoints_root)
        if not dropped.empty:
            dropped = replace(dropped, sequence=_record(connection, dropped))
        connection.execute("COMMIT")
    for path in dropped.paths:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    return dropped


def needed_keys_sql(before: int) -> str:
    """A SELECT of the completions that each asset's last use before a sequence used."""
    return f"""
        SELECT key FROM lineage.uses WHERE sequence IN (
            SELECT max(sequence) FROM lineage.uses JOIN lineage.materializations USING (sequence)
            WHERE sequence < {before} GROUP BY asset
        )
    """


def _drop_rows(connection: duckdb.DuckDBPyConnection, root: Path) -> PrunePlan:
    """Delete rows in the open transaction; files are only listed."""
    sequence, _ = next_link(connection)
    unneeded = f"store.completions WHERE key NOT IN ({needed_keys_sql(sequence)})"
    ((completions, unvouched, text),) = connection.execute(
        f"""
        SELECT count(*), count(*) FILTER (key NOT IN (SELECT key FROM lineage.uses)),
               coalesce(sum(strlen(prompt) + strlen(text)), 0)::BIGINT
        FROM {unneeded}
        """
    ).fetchall()
    connection.execute(f"DELETE FROM {unneeded}")
    connection.execute(
        "DELETE FROM store.answers WHERE key NOT IN (SELECT key FROM store.completions)"
    )
    _find_needed_rows(connection)
    rows, horizon = {}, 0
    for name in TABLES:
        unneeded = (
            f"history.{name} AS old WHERE removed_in IS NOT NULL AND ("
            "TRY_CAST(row_id AS UUID) NOT IN "
            f"(SELECT row_id FROM needed_rows WHERE table_name = {literal(name)}) OR EXISTS ("
            f"SELECT 1 FROM history.{name} AS later "
            "WHERE later.row_id = old.row_id AND later.added_in > old.added_in))"
        )
        ((count, last, size),) = connection.execute(
            "SELECT count(*), coalesce(max(removed_in), 1), "
            f"coalesce(sum(strlen(CAST(to_json(old) AS VARCHAR))), 0)::BIGINT FROM {unneeded}"
        ).fetchall()
        if count:
            connection.execute(f"DELETE FROM {unneeded}")
            rows[name], horizon, text = count, max(horizon, last - 1), text + size
    ((edges,),) = connection.execute(
        "DELETE FROM lineage.parents AS edge WHERE NOT EXISTS ("
        "SELECT 1 FROM lineage.rows AS kept WHERE kept.table_name = edge.table_name "
        "AND TRY_CAST(kept.row_id AS UUID) = edge.row_id)"
    ).fetchall()
    paths = _unneeded_paths(connection, root)
    return PrunePlan(
        completions=completions,
        unvouched=unvouched,
        rows=rows,
        edges=edges,
        paths=tuple(paths),
        stored_bytes=text,
        file_bytes=sum(_size(path) for path in paths),
        horizon=horizon,
    )


def _find_needed_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `needed_rows`: removed rows that live ones were made from."""
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE needed_rows AS
        WITH RECURSIVE reached AS (
            SELECT DISTINCT parent_table AS table_name, parent_id AS row_id
            FROM lineage.parents AS edge
            SEMI JOIN (
                SELECT table_name, TRY_CAST(row_id AS UUID) AS row_id
                FROM lineage.rows WHERE removed_in IS NULL
            ) AS living ON living.table_name = edge.table_name AND living.row_id = edge.row_id
            UNION
            SELECT edge.parent_table, edge.parent_id
            FROM reached JOIN lineage.parents AS edge
            ON edge.table_name = reached.table_name AND edge.row_id = reached.row_id
        )
        SELECT reached.table_name, reached.row_id FROM reached
        SEMI JOIN (
            SELECT table_name, TRY_CAST(row_id AS UUID) AS row_id
            FROM lineage.rows WHERE removed_in IS NOT NULL
        ) AS gone ON gone.table_name = reached.table_name AND gone.row_id = reached.row_id
        """
    )


def _unneeded_paths(connection: duckdb.DuckDBPyConnection, root: Path) -> list[Path]:
    """Folders and manifest notes that no row names, and what was left unfinished."""
    named = " UNION ".join(
        f"SELECT {asset_sql(TABLES[name])} || '/' || left(checkpoint_hash, 16) "
        f"FROM history.{name} WHERE checkpoint_hash IS NOT NULL"
        for name in MODELS
    )
    kept = {folder for (folder,) in connection.execute(named).fetchall()}
    registered = {
        path for (path,) in connection.execute("SELECT path FROM lineage.checkpoints").fetchall()
    }
    unneeded = []
    for path in sorted(root.glob("*/*")):
        relative = path.relative_to(root).as_posix()
        if path.name == MANIFESTS:
            notes = sorted(path.iterdir())
            unneeded += [note for note in notes if not _needed_note(note, kept, registered)]
        elif relative not in kept and (relative in registered or _abandoned(path)):
            unneeded.append(path)
    return unneeded


def _needed_note(note: Path, kept: set[str], registered: set[str]) -> bool:
    """Whether a manifest's note names a folder that stays, or one that is being written."""
    if note.suffix != ".json":
        return not _abandoned(note)
    try:
        content_hash = str(json.loads(note.read_text(encoding="utf-8"))["content_hash"])
    except (ValueError, KeyError):
        return False
    folder = f"{note.parent.parent.name}/{content_hash[:16]}"
    return folder in kept or (folder not in registered and not _abandoned(note))


def _abandoned(path: Path) -> bool:
    """Whether nothing in it was written for an hour."""
    inside = path.rglob("*") if path.is_dir() else ()
    newest = max(entry.stat().st_mtime for entry in (path, *inside))
    return time.time() - newest > ABANDONED_AFTER_S


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else (path,)
    return sum(file.stat().st_size for file in files if file.is_file())


def _record(connection: duckdb.DuckDBPyConnection, done: PrunePlan) -> int:
    """Write the prune's ledger row in the open transaction; its sequence."""
    sequence, previous = next_link(connection)
    record = Record(
        asset=PRUNE,
        run_id=f"{PRUNE}-{uuid4()}",
        code_version="1",
        config_hash=content_id("config", {}),
        metrics={
            "horizon": done.horizon,
            "completions": done.completions,
            "rows": sum(done.rows.values()),
            "edges": done.edges,
            "paths": len(done.paths),
            "stored_bytes": done.stored_bytes,
            "file_bytes": done.file_bytes,
        },
    )
    commit = Commit(sequence, json_hash({}), 0, 0, 0, 0)
    write_record(connection, record, commit, {}, (), previous)
    return sequence
