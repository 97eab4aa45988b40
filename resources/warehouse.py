"""Resources `warehouse` and `checkpoints`: where data, lineage and trained models are kept."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster_duckdb import DuckDBResource
from pydantic import Field

from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.heads import append_head, open_witness, read_head
from refine_dagster.warehouse.run_lock import Holder, holding_run_lock
from refine_dagster.warehouse.warehouse import Warehouse
from resources.ledger_events import require_ledger_of

LOCK_TIMEOUT_S = 30.0
RUN_WAIT_S = 600.0


class CheckpointsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Folders named by content hash under one root."""

    root: str = Field(description="The artifact root; made on first use.")

    def store(self, warehouse: Warehouse) -> CheckpointStore:
        """The checkpoints that are registered in a warehouse."""
        return CheckpointStore(Path(self.root), warehouse)


class WarehouseResource(DuckDBResource):
    """The warehouse. Nothing is opened before an asset asks.

    A connection of `get_connection` has the schema in place, waits for a held lock, and is closed
    after an exception too. A run locks its home from its first step to its last
    (`warehouse/run_lock.py`): another run, from the UI or the command line, waits for it.
    """

    lock_timeout_s: float | None = Field(
        default=None,
        description="Seconds to wait for another process to close the file; "
        f"{LOCK_TIMEOUT_S:g} if unset.",
    )
    run_wait_s: float = Field(
        default=RUN_WAIT_S, description="Seconds to wait for another run in the same home to end."
    )

    witness: str | None = Field(
        default=None,
        description="A file to which each run appends the ledger's head; `audit.witness`.",
    )

    def open(self) -> Warehouse:
        return Warehouse(Path(self.database), lock_timeout_s=self.lock_timeout_s or LOCK_TIMEOUT_S)

    @contextmanager
    def get_connection(self) -> Iterator[Any]:
        with self.open().connect() as connection:
            yield connection

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Generator[Self, None, None]:
        """The resource; for a run, with its home locked.

        Raises:
            RunLockError: another run held the home for `run_wait_s`, or it cannot be locked.
            WarehouseError: the database is not the one that Dagster's event log is of.
            WitnessError: the witness file cannot be written.
        """
        with super().yield_for_execution(context) as resource:
            if context.run is None:
                yield resource
                return
            with holding_run_lock(
                Path(self.database).parent,
                context.run.run_id,
                wait_s=self.run_wait_s,
                say=context.log.info if context.log else None,
            ) as cut_off:
                if context.instance and cut_off:
                    end_run_that_was_cut_off(context.instance, cut_off)
                if context.instance:
                    require_ledger_of(context.instance, self.open())
                with self._witnessing(context.run.run_id):
                    yield resource

    @contextmanager
    def _witnessing(self, run_id: str) -> Iterator[None]:
        """Append the ledger's head to the witness file at the end, also after an error."""
        if self.witness is None:
            yield
            return
        witness, home = Path(self.witness), Path(self.database).parent
        open_witness(witness)
        try:
            yield
        finally:
            with self.open().reading() as connection:
                head = read_head(connection)
            if head is not None:
                now = datetime.now(UTC).isoformat(timespec="seconds")
                append_head(witness, head, home, {"run": run_id, "time": now})


def end_run_that_was_cut_off(instance: dg.DagsterInstance, holder: Holder) -> None:
    """Report a run as failed to Dagster whose process was killed.

    Dagster would show it as running for ever, and automation would wait for it.
    """
    run = instance.get_run_by_id(holder.run)
    if run is not None and not run.is_finished:
        instance.report_run_failed(run, f"process {holder.pid} ended without a word")
