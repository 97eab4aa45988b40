"""A warehouse and a completions store without a database: the plainest thing that could be right.

Nothing is there before, nothing is reused, nothing is kept: what the graph makes in them is what a
build from nothing gives. Of the ledger there is only what steps read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import polars as pl

from refine_dagster.generation.request import Backend, Completion, Request
from refine_dagster.hashing import content_id
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.ledger import Commit, Record
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.tables import tables_of


class MemoryWarehouse:
    """What `assets.step.Step` needs of a `Warehouse`."""

    def __init__(self) -> None:
        self.tables: dict[str, pl.DataFrame] = {}
        self._versions: dict[str, str] = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """There is nothing to hold."""
        yield

    def retire_rounds_beyond(self, rounds: int, run_id: str) -> list[str]:
        """There are none."""
        return []

    def data_versions(self) -> dict[str, str]:
        """Of the assets that were committed."""
        return dict(self._versions)

    def last_record(self, asset: str) -> None:
        """No asset was ever made before."""

    def read(self, name: str) -> pl.DataFrame:
        """The rows of a slice, by id."""
        return self.tables.get(name, frame(name, []))

    def commit(
        self,
        record: Record,
        tables: Mapping[str, pl.DataFrame],
        checkpoints: Sequence[Checkpoint] = (),
    ) -> Commit:
        """Keep the rows."""
        assert {one.name for one in tables_of(record.asset)} == set(tables)
        for name, rows in tables.items():
            assert rows["row_id"].is_unique().all(), name
            self.tables[name] = rows.sort("row_id")
        ids = {name: self.tables[name]["row_id"].to_list() for name in tables}
        self._versions[record.asset] = content_id("version", ids)
        total = tables[tables_of(record.asset)[0].name].height
        return Commit(1, self._versions[record.asset], total, total, 0, 0)


class MemoryStore:
    """What `GeneratorSession` and `Step` need of a `CompletionsStore`; it knows nothing before."""

    def __init__(self) -> None:
        self.usage: dict[str, Any] = {}
        self.uses: dict[str, bool] = {}

    def complete(
        self, backend: Backend, requests: Sequence[Request], also: Sequence[str] = ()
    ) -> list[Completion]:
        """Ask for all."""
        answers = dict(answer for batch in backend.generate(requests) for answer in batch)
        return [answers[place] for place in range(len(requests))]

    def stored(
        self, fingerprint: str, requests: Sequence[Request], also: Sequence[str] = ()
    ) -> list[bool]:
        """None is."""
        return [False] * len(requests)

    def key_of(self, fingerprint: str, request: Request) -> str:
        """The request's own key."""
        return request.key(fingerprint)
