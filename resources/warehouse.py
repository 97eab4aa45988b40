"""Resource `warehouse`: the DuckDB file of data, completions and lineage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dagster_duckdb import DuckDBResource
from pydantic import Field

from refine_dagster.lineage.warehouse import Warehouse

LOCK_TIMEOUT_S = 30.0


class WarehouseResource(DuckDBResource):
    """The warehouse. Nothing is opened before an asset asks.

    `get_connection`, as in any DuckDBResource, lends a connection; this one is closed after an
    exception too, has the schema in place and waits for a held lock.
    """

    lock_timeout_s: float | None = Field(
        default=None,
        description=f"Seconds to wait for another process to let go of the file; "
        f"{LOCK_TIMEOUT_S:g} if unset.",
    )

    def open(self) -> Warehouse:
        """The engine's warehouse on this file."""
        return Warehouse(Path(self.database), lock_timeout_s=self.lock_timeout_s or LOCK_TIMEOUT_S)

    @contextmanager
    def get_connection(self) -> Iterator[Any]:
        """Lend a short connection."""
        with self.open().connect() as connection:
            yield connection
