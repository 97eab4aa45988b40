"""Prune: drop what nothing live refers to, and record that in the ledger.

Dropped are: completions that no asset's last materialization used; rows that were removed from
their table, unless a live row was made from them, and their edges; checkpoint folders that no
remaining row names; what a killed training left. Ledger rows stay.

Rows go in one transaction with the ledger row of the prune. Files are taken out of their places
before it is committed and put back if it is not; what a kill leaves of them the next prune deletes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb

from refine_dagster.hashing import content_id, json_hash
from refine_dagster.lineage.checkpoint_files import (
    MANIFESTS,
    SET_ASIDE,
    delete_set_aside,
    entries,
    newest_change,
    require_own_files,
    set_aside,
    size,
)
from refine_dagster.warehouse.ledger import PRUNE, Commit, Record, next_link, write_record
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import MODELS, TABLES, asset_sql
from refine_dagster.warehouse.warehouse import Warehouse

# A file that no record names may belong to a running training, unless it is this old.
ABANDONED_AFTER_S = 3600.0


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
    """Find what a prune would drop now; nothing is changed.

    Raises:
        CheckpointFilesError: something among the checkpoints is no file and no folder.
    """
    require_own_files(checkpoints_root)
    with warehouse.connect() as connection:
        return _find(connection, checkpoints_root)


def apply(
    warehouse: Warehouse,
    checkpoints_root: Path,
    redact: Callable[[duckdb.DuckDBPyConnection], Mapping[str, Any]] | None = None,
) -> PrunePlan:
    """Drop it; the plan that was carried out, with its sequence if anything was dropped.

    Args:
        redact: changes more in the same transaction, and returns what the record says of it.

    Raises:
        CheckpointFilesError: something among the checkpoints is no file and no folder, or a file
            cannot be deleted. What the message says holds of records and files alike.
    """
    require_own_files(checkpoints_root)
    delete_set_aside(checkpoints_root)
    with warehouse.connect() as connection:
        connection.execute("BEGIN TRANSACTION")
        dropped = _find(connection, checkpoints_root)
        if dropped.empty and redact is None:
            return dropped
        _drop(connection, dropped)
        more = {} if redact is None else redact(connection)
        dropped = replace(dropped, sequence=_record(connection, dropped, more))
        with set_aside(dropped.paths, checkpoints_root):
            connection.execute("COMMIT")
    delete_set_aside(checkpoints_root)
    return dropped


def needed_keys_sql(before: int) -> str:
    """A SELECT of the completions that each asset's last use before a sequence used."""
    return f"""
        SELECT key FROM lineage.uses WHERE sequence IN (
            SELECT max(sequence) FROM lineage.uses JOIN lineage.materializations USING (sequence)
            WHERE sequence < {before} GROUP BY asset
        )
    """


def _unneeded_completions(connection: duckdb.DuckDBPyConnection) -> str:
    sequence, _ = next_link(connection)
    return f"store.completions WHERE key NOT IN ({needed_keys_sql(sequence)})"


def _unneeded_rows(table: str) -> str:
    """A condition on rows `old` of a history table, once `needed_rows` is there."""
    return (
        "old.removed_in IS NOT NULL AND ("
        "TRY_CAST(old.row_id AS UUID) NOT IN "
        f"(SELECT row_id FROM needed_rows WHERE table_name = {literal(table)}) OR EXISTS ("
        f"SELECT 1 FROM history.{table} AS later "
        "WHERE later.row_id = old.row_id AND later.added_in > old.added_in))"
    )


# Once `kept_rows` is there.
_UNNEEDED_EDGES = """
    lineage.parents AS edge WHERE NOT EXISTS (
        SELECT 1 FROM kept_rows AS kept
        WHERE kept.table_name = edge.table_name AND kept.row_id = edge.row_id
    )
"""


def _find(connection: duckdb.DuckDBPyConnection, root: Path) -> PrunePlan:
    """What is not needed; only temporary tables are made."""
    ((completions, unvouched, text),) = connection.execute(
        f"""
        SELECT count(*), count(*) FILTER (key NOT IN (SELECT key FROM lineage.uses)),
               coalesce(sum(strlen(prompt) + strlen(text)), 0)::BIGINT
        FROM {_unneeded_completions(connection)}
        """
    ).fetchall()
    _find_needed_rows(connection)
    rows, horizon = {}, 0
    for name in TABLES:
        ((count, last, stored),) = connection.execute(
            "SELECT count(*), coalesce(max(removed_in), 1), "
            "coalesce(sum(strlen(CAST(to_json(old) AS VARCHAR))), 0)::BIGINT "
            f"FROM history.{name} AS old WHERE {_unneeded_rows(name)}"
        ).fetchall()
        if count:
            rows[name], horizon, text = count, max(horizon, last - 1), text + stored
    _find_kept_rows(connection)
    ((edges,),) = connection.execute(f"SELECT count(*) FROM {_UNNEEDED_EDGES}").fetchall()
    paths = _unneeded_paths(connection, root)
    return PrunePlan(
        completions=completions,
        unvouched=unvouched,
        rows=rows,
        edges=edges,
        paths=tuple(paths),
        stored_bytes=text,
        file_bytes=sum(map(size, paths)),
        horizon=horizon,
    )


def _drop(connection: duckdb.DuckDBPyConnection, found: PrunePlan) -> None:
    """Delete the rows that `_find` found, in the open transaction."""
    connection.execute(f"DELETE FROM {_unneeded_completions(connection)}")
    connection.execute(
        "DELETE FROM store.answers WHERE key NOT IN (SELECT key FROM store.completions)"
    )
    connection.execute(f"DELETE FROM {_UNNEEDED_EDGES}")
    for name in found.rows:
        connection.execute(f"DELETE FROM history.{name} AS old WHERE {_unneeded_rows(name)}")


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


def _find_kept_rows(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `kept_rows`: rows that stay, and the checkpoints that they name."""
    kept = " UNION ALL ".join(
        f"SELECT {literal(name)} AS table_name, TRY_CAST(row_id AS UUID) AS row_id, "
        + (
            f"{asset_sql(TABLES[name])} || '/' || left(checkpoint_hash, 16) AS folder "
            if name in MODELS
            else "NULL AS folder "
        )
        + f"FROM history.{name} AS old WHERE ({_unneeded_rows(name)}) IS NOT TRUE"
        for name in TABLES
    )
    connection.execute(f"CREATE OR REPLACE TEMP TABLE kept_rows AS {kept}")


def _unneeded_paths(connection: duckdb.DuckDBPyConnection, root: Path) -> list[Path]:
    """Folders and manifest notes that no row names, and what was left unfinished."""
    named = "SELECT DISTINCT folder FROM kept_rows WHERE folder IS NOT NULL"
    kept = {folder for (folder,) in connection.execute(named).fetchall()}
    registered = {
        path for (path,) in connection.execute("SELECT path FROM lineage.checkpoints").fetchall()
    }
    unneeded = []
    for path in entries(root):
        relative = path.relative_to(root).as_posix()
        if path.name == MANIFESTS and path.is_dir():
            notes = sorted(path.iterdir())
            unneeded += [note for note in notes if not _needed_note(note, kept, registered)]
        elif path.name == SET_ASIDE or (
            relative not in kept and (relative in registered or _abandoned(path))
        ):
            unneeded.append(path)
    return unneeded


def _needed_note(note: Path, kept: set[str], registered: set[str]) -> bool:
    """Whether a manifest's note names a folder that stays, or one that is being written."""
    if note.suffix != ".json" or not note.is_file():
        return not _abandoned(note)
    try:
        content_hash = str(json.loads(note.read_text(encoding="utf-8"))["content_hash"])
    except (ValueError, KeyError, TypeError):
        return False
    folder = f"{note.parent.parent.name}/{content_hash[:16]}"
    return folder in kept or (folder not in registered and not _abandoned(note))


def _abandoned(path: Path) -> bool:
    """Whether nothing in it was written for an hour."""
    return time.time() - newest_change(path) > ABANDONED_AFTER_S


def _record(connection: duckdb.DuckDBPyConnection, done: PrunePlan, more: Mapping[str, Any]) -> int:
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
            **more,
        },
    )
    commit = Commit(sequence, json_hash({}), 0, 0, 0, 0)
    write_record(connection, record, commit, {}, (), previous)
    return sequence
