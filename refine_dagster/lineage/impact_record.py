"""What `lineage/impact.py` finds: the parts of the answer to "what did this seed touch?"."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class SeedVersion:
    """One version of a seed task; `removed_in` is None while it lives."""

    row_id: str
    seed_id: str
    instruction: str
    added_in: int
    removed_in: int | None


@dataclass(frozen=True)
class TableImpact:
    """Rows of one table that descend from the seed.

    Attributes:
        table: the table.
        shown, trained, compared: rows that lived at the time, by how they descend.
        of: all rows of the table that lived at the time.
        ever: rows that ever descended from the seed, removed ones and later ones included.
    """

    table: str
    shown: int
    trained: int
    compared: int
    of: int
    ever: int

    @property
    def rows(self) -> int:
        """Rows that lived at the time and descend from the seed."""
        return self.shown + self.trained + self.compared


@dataclass(frozen=True)
class DatasetImpact:
    """The dataset as it was, and how many of its rows descend from the seed."""

    data_version: str
    sequence: int
    rows: int
    of: int


@dataclass(frozen=True)
class CheckpointImpact:
    """A model's checkpoint that lived at the time and descends from the seed.

    Attributes:
        asset: whose it is.
        row_id: the model's row.
        content_hash: the checkpoint's hash.
        path: its folder, relative to the artifact root; None where none is registered.
        how: `trained`, or `compared`: the seed only served to measure it.
        live: whether a live model has this checkpoint now.
    """

    asset: str
    row_id: str
    content_hash: str
    path: str | None
    how: str
    live: bool


@dataclass(frozen=True)
class ExportImpact:
    """An exported file, and how many of its `of` rows descend from the seed."""

    row_id: str
    path: str
    format: str
    data_version: str
    rows: int
    of: int


@dataclass(frozen=True)
class Impact:
    """What a seed touched, as of one materialization.

    Attributes:
        seeds: the versions that were asked about.
        others: other versions of the same seed ids, not asked about.
        as_of: the materialization after which the rows lived.
        latest: the last materialization; equal to `as_of` where now was asked about.
        tables: one entry for each table that ever had a row of the seed's.
        rows: `table`, `row_id`, `how` of every row counted.
        dataset: the dataset at that time; None before there was one.
        checkpoints: checkpoints of models that lived at that time.
        exports: files exported by that time and not written anew since.
        live_checkpoints: what still holds the seed now: checkpoints of live models that were
            trained on it, whether the model's row descends from it or an older row of the same
            bytes does.
    """

    seeds: tuple[SeedVersion, ...]
    others: tuple[SeedVersion, ...]
    as_of: int
    latest: int
    tables: tuple[TableImpact, ...]
    rows: pl.DataFrame
    dataset: DatasetImpact | None
    checkpoints: tuple[CheckpointImpact, ...]
    exports: tuple[ExportImpact, ...]
    live_checkpoints: tuple[CheckpointImpact, ...]

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        told = {name: value for name, value in vars(self).items() if name != "rows"}
        plain = {
            name: [asdict(one) for one in value] if isinstance(value, tuple) else value
            for name, value in told.items()
        }
        dataset = None if self.dataset is None else asdict(self.dataset)
        return {**plain, "dataset": dataset, "rows": self.rows.to_dicts()}
