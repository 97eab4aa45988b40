"""Forget a seed: its text leaves the home, and what is left of it is named.

A removed seed stands in removed rows, in completions, in manifests of checkpoints that were trained
on it, in exported files and in the previews of Dagster's events. All of these are dropped or
redacted; the database and Dagster's files are written again, because deleted bytes stay in them.
The ledger keeps a tombstone without the text: the ids of the seed's rows, and the hashes of the
redacted manifests, so that the audit goes on. Then every byte of the home is searched.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import duckdb
import polars as pl

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json, content_id, file_hash, text_hash
from refine_dagster.home import Home
from refine_dagster.lineage import prune
from refine_dagster.lineage.export import PROVENANCE_SUFFIX
from refine_dagster.lineage.log_redaction import redact_logs, redacted
from refine_dagster.lineage.text_search import Left, piece_of, search_files, search_tables
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.compaction import rewrite_file
from refine_dagster.warehouse.database import DatabaseFile
from refine_dagster.warehouse.ledger import FORGOTTEN_COMPLETIONS, FORGOTTEN_MANIFESTS, Record
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.sql import literal, literals
from refine_dagster.warehouse.tables import EXPORTS
from refine_dagster.warehouse.warehouse import Warehouse

SEEDS = "seed_tasks"


class ForgetError(RefineError):
    """A seed cannot be forgotten yet."""


@dataclass(frozen=True)
class Export:
    """An exported file that has rows made from the seed; `same`: as it was exported."""

    row_id: str
    path: Path
    same: bool


@dataclass(frozen=True)
class ForgetPlan:
    """What is to be forgotten.

    Attributes:
        rows: ids of the seed's versions in the history.
        pieces: what its texts are searched by.
        short: texts that are too short to be searched for.
        shared: texts that live seeds have too; they stay.
        exports: files with rows made from it.
        models: paths of checkpoints that were trained on it.
    """

    rows: tuple[str, ...]
    pieces: tuple[str, ...]
    short: int
    shared: int
    exports: tuple[Export, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Forgotten:
    """What was done; `left` are the places in which a text was still found."""

    pruned: prune.PrunePlan
    cells: int
    exports: tuple[Export, ...]
    left: tuple[Left, ...]


def plan(warehouse: Warehouse, seed: str, former: Path | None = None) -> ForgetPlan:
    """Find what is to be forgotten; nothing is changed.

    Args:
        seed: a seed_id, or the row_id of one version.
        former: a seed file that still has the seed, where the home's history has it no more.

    Raises:
        ForgetError: nobody has it, it is live, or live rows were made from it.
    """
    with warehouse.held(), warehouse.reading() as connection:
        versions = connection.execute(
            f"SELECT row_id, removed_in, instruction, instances FROM history.{SEEDS} "
            "WHERE seed_id = ? OR row_id = ?",
            [seed, seed],
        ).fetchall()
        texts = {text for _, _, first, items in versions for text in _texts(first, items)}
        if former is not None:
            texts |= {
                text
                for task in read_seeds(str(former)).seeds
                if task.seed_id == seed
                for text in _texts(task.row()["instruction"], task.row()["instances"])
            }
        if not texts:
            raise ForgetError(
                f"neither the home nor a file has a seed {seed!r}",
                fix="give a seed_id or a row_id; of a seed that was pruned, the file that has it "
                "with --from",
            )
        rows = sorted({row_id for row_id, *_ in versions})
        live = [row_id for row_id, removed_in, *_ in versions if removed_in is None]
        exports = _exports(connection, rows)
        _require_retracted(connection, seed, rows, live)
        pieces = {piece for text in texts if (piece := piece_of(text))}
        shared = {piece for piece in pieces if _is_live(connection, piece)}
        wanted = tuple(sorted(pieces - shared))
        return ForgetPlan(
            rows=tuple(rows),
            pieces=wanted,
            short=sum(piece_of(text) is None for text in texts),
            shared=len(shared),
            exports=tuple(exports),
            models=tuple(_models(connection, wanted)),
        )


def apply(home: Home, seed: str, former: Path | None = None) -> Forgotten:
    """Forget it, under the run lock.

    Raises:
        ForgetError: as `plan`.
        RefineError: a file cannot be written; called again, it goes on.
    """
    warehouse = Warehouse(home.warehouse)
    found = plan(warehouse, seed, former)
    _retire_exports(warehouse, found.exports)

    def redact(connection: duckdb.DuckDBPyConnection) -> dict[str, Any]:
        return {
            "forgotten": list(found.rows),
            FORGOTTEN_COMPLETIONS: _drop_completions(connection, found.pieces),
            FORGOTTEN_MANIFESTS: _redact_manifests(connection, found.pieces),
        }

    pruned = prune.apply(warehouse, home.checkpoints, redact)
    rewrite_file(home.warehouse)
    cells = redact_logs(home.dagster, found.pieces) if found.pieces else 0
    return Forgotten(pruned, cells, found.exports, tuple(search(home, found.pieces)))


def search(home: Home, pieces: Sequence[str]) -> list[Left]:
    """Everything of a home that has one of the texts: rows by table, then files.

    The databases of comparisons are searched, too.
    """
    if not pieces:
        return []
    left = []
    for path in sorted(home.root.rglob("*.duckdb")):
        if path.is_file() and not path.is_symlink():
            inside = "" if path == home.warehouse else f"{path.relative_to(home.root)}, "
            with DatabaseFile(path, read_only=True).connect() as connection:
                left += [
                    Left(f"{inside}{found.place}", found.what)
                    for found in search_tables(connection, pieces)
                ]
    return left + list(search_files(home.root, pieces))


def _texts(instruction: str, instances: Sequence[dict[str, str]]) -> list[str]:
    given = [instance[name] for instance in instances for name in ("input", "output")]
    return [text for text in (instruction, *given) if text]


def _require_retracted(
    connection: duckdb.DuckDBPyConnection, seed: str, rows: list[str], live: list[str]
) -> None:
    if live:
        raise ForgetError(
            f"{seed} is a live seed",
            fix="remove it from the seeds and run, so that nothing live descends from it",
        )
    descendants = connection.execute(
        "SELECT count(*) FROM lineage.rows SEMI JOIN (SELECT descendant_id FROM "
        f"(SELECT unnest([{literals(rows)}]::VARCHAR[]) AS asked) AS given, "
        "lineage.descendants_of(given.asked)) AS made ON made.descendant_id = rows.row_id "
        f"WHERE removed_in IS NULL AND table_name <> '{EXPORTS}'"
    ).fetchall()
    if descendants[0][0]:
        raise ForgetError(
            f"{descendants[0][0]} live rows were made from {seed}",
            fix="run all assets, so that nothing live descends from it",
        )


def _exports(connection: duckdb.DuckDBPyConnection, rows: list[str]) -> list[Export]:
    """Files that were exported with rows made from the seed."""
    found = connection.execute(
        f"SELECT row_id, path, sha256 FROM main.{EXPORTS} WHERE row_id IN (SELECT descendant_id "
        f"FROM (SELECT unnest([{literals(rows)}]::VARCHAR[]) AS asked) AS given, "
        "lineage.descendants_of(given.asked)) ORDER BY path"
    ).fetchall()
    return [
        Export(row_id, Path(path), Path(path).is_file() and file_hash(Path(path)) == sha256)
        for row_id, path, sha256 in found
    ]


def _is_live(connection: duckdb.DuckDBPyConnection, piece: str) -> bool:
    found = connection.execute(
        f"SELECT 1 FROM main.{SEEDS} AS held "
        "WHERE contains(CAST(to_json(held) AS VARCHAR), ?) LIMIT 1",
        [piece],
    ).fetchall()
    return bool(found)


def _models(connection: duckdb.DuckDBPyConnection, pieces: Sequence[str]) -> list[str]:
    registered = connection.execute(
        "SELECT path, manifest FROM lineage.checkpoints ORDER BY sequence, path"
    ).fetchall()
    return list(
        dict.fromkeys(path for path, manifest in registered if any(p in manifest for p in pieces))
    )


def _retire_exports(warehouse: Warehouse, exports: Sequence[Export]) -> None:
    """Delete files that are as they were exported, and end the records of all."""
    if not exports:
        return
    gone = {export.row_id for export in exports}
    kept = warehouse.read(EXPORTS).filter(~pl.col("row_id").is_in(list(gone)))
    version = warehouse.data_version("instruction_dataset")
    record = Record(
        asset=EXPORTS,
        run_id=f"forget-{uuid4()}",
        code_version="1",
        config_hash=content_id("config", {}),
        inputs={"instruction_dataset": version} if version else {},
    )
    warehouse.commit(record, {EXPORTS: frame(EXPORTS, kept.to_dicts())})
    for export in exports:
        if export.same:
            export.path.unlink()
            export.path.with_name(export.path.name + PROVENANCE_SUFFIX).unlink(missing_ok=True)


def _drop_completions(connection: duckdb.DuckDBPyConnection, pieces: Sequence[str]) -> list[str]:
    """Delete completions that were asked with a text, or answered with it; their keys.

    A prune keeps what an asset used last, also where the asset has used none since.
    """
    found = " OR ".join(
        f"contains(prompt, {literal(piece)}) OR contains(text, {literal(piece)})"
        for piece in pieces
    )
    if not found:
        return []
    deleted = connection.execute(
        f"DELETE FROM store.completions WHERE {found} RETURNING key"
    ).fetchall()
    connection.execute(
        "DELETE FROM store.answers WHERE key NOT IN (SELECT key FROM store.completions)"
    )
    return sorted(key for (key,) in deleted)


def _redact_manifests(
    connection: duckdb.DuckDBPyConnection, pieces: Sequence[str]
) -> dict[str, str]:
    """Take the texts out of manifests in the open transaction: manifest hash -> its new sha256."""
    hashes = {}
    registered = connection.execute(
        "SELECT DISTINCT manifest_hash, manifest FROM lineage.checkpoints"
    ).fetchall()
    for manifest_hash, manifest in registered:
        kept = canonical_json(redacted(json.loads(manifest), pieces))
        if kept != manifest:
            hashes[manifest_hash] = text_hash(kept)
            connection.execute(
                "UPDATE lineage.checkpoints SET manifest = ? WHERE manifest_hash = ?",
                [kept, manifest_hash],
            )
    return hashes
