"""An empty warehouse, and commits to it as a run would make them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import duckdb

from refine_dagster.hashing import content_id
from refine_dagster.warehouse import database
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.ledger import Commit, Record
from refine_dagster.warehouse.rows import Row, frame
from refine_dagster.warehouse.tables import tables_of
from refine_dagster.warehouse.warehouse import Warehouse


def new_warehouse(path: Path, **options: Any) -> Warehouse:
    """A warehouse with no rows at `path`; `options` are those of `Warehouse`.

    Making one takes hundreds of statements, so each process makes one and copies it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty())
    return Warehouse(path, **options)


@cache
def _empty() -> bytes:
    folder = Path(tempfile.mkdtemp())
    try:
        Warehouse(folder / "warehouse.duckdb").query("SELECT 1")
        return (folder / "warehouse.duckdb").read_bytes()
    finally:
        shutil.rmtree(folder)


@contextmanager
def cheap_planning() -> Iterator[None]:
    """A DuckDB of its own for this process, which runs queries as they are written.

    On a few rows, planning a query costs more than running it.
    """
    with duckdb.connect() as connection:
        found = connection.execute("SELECT name FROM duckdb_optimizers()").fetchall()
    config = {"threads": 1, "disabled_optimizers": ",".join(name for (name,) in found)}
    process = database._Process
    with mock.patch.dict(database._CONFIG, config), mock.patch.object(process, "current", None):
        yield
        if process.current is not None:
            process.current.duckdb.close()


def commit(
    warehouse: Warehouse,
    asset: str,
    rows: Sequence[Row] | Mapping[str, Sequence[Row]] | None,
    checkpoints: Sequence[Checkpoint] = (),
    **record: Any,
) -> Commit:
    """Commit an asset.

    Args:
        rows: those of its first table, or of several by name; what is not named is empty. None
            commits that all stand as they are.
        record: fields of `Record` that matter to the test.
    """
    told = {
        "run_id": "run",
        "code_version": "1",
        "config_hash": content_id("config", record.get("config", {})),
        **record,
    }
    if rows is None:
        return warehouse.commit(Record(asset, **told), None, checkpoints)
    given = dict(rows) if isinstance(rows, Mapping) else {asset: rows}
    empty: dict[str, Sequence[Row]] = {table.name: [] for table in tables_of(asset)}
    frames = {name: frame(name, listed) for name, listed in {**empty, **given}.items()}
    return warehouse.commit(Record(asset, **told), frames, checkpoints)
