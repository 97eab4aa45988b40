"""What stages run with, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.rows import Parent, Row, as_parent

Tables = Mapping[str, list[Row]]
Figures = Mapping[str, float | int | str | bool | None]


class Checkpoints(Protocol):
    """Keeps trained models and finds them again (`warehouse.checkpoints.CheckpointStore`)."""

    def train_or_reuse(
        self, asset: str, manifest: Mapping[str, Any], train: Callable[[Path], dict[str, Any]]
    ) -> Checkpoint:
        """The checkpoint of a manifest, trained if it is not there."""

    def resume_folder(self, asset: str, manifest: Mapping[str, Any]) -> Path | None:
        """Where an unfinished training of a manifest keeps its state; None keeps none."""


@dataclass(frozen=True)
class Runtime:
    """What every stage needs that runs a model.

    `generator` loads a model that answers requests for as long as the context is open.
    """

    run_seed: str
    device: Device
    checkpoints: Checkpoints
    generator: Callable[[ModelRef], AbstractContextManager[GeneratorSession]]
    language: Language = ENGLISH

    def trained(
        self,
        asset: str,
        train: Callable[..., dict[str, Any]],
        config: Mapping[str, Any],
        *,
        run_seed: str | None = None,
        resumes: bool = False,
        **others: Any,
    ) -> Checkpoint:
        """The checkpoint that `train` makes, or made before from the same manifest.

        Homes find their checkpoints by it, so its names stand as they were first written: the
        config is `knobs`, the run seed `salt`, and a renamed field of the config has an alias.

        Args:
            train: fills the folder `out` and returns the checkpoint's record; it is given `out`,
                `device`, `run_seed`, and, where it `resumes`, `resume`.
            config: the fields that decide the result; JSON values.
            others: what else decides the result: a base model's fingerprint, examples, prompts.
        """
        run_seed = run_seed or self.run_seed
        device = self.device
        manifest = {
            "knobs": config,
            "salt": run_seed,
            "device": {
                "name": device.name,
                "dtype": device.dtype,
                "threads": device.threads,
                "deterministic": device.deterministic,
                "quantization": device.quantization,
            },
            **others,
        }
        given: dict[str, Any] = {"device": device, "run_seed": run_seed}
        if resumes:
            given["resume"] = self.checkpoints.resume_folder(asset, manifest)
        return self.checkpoints.train_or_reuse(asset, manifest, lambda out: train(out=out, **given))


@dataclass(frozen=True)
class Model:
    """A language model's files, and the row of `table` that stands for it."""

    ref: ModelRef
    table: str
    row: Row

    def as_parent(self, role: str) -> Parent:
        return as_parent(self.table, self.row, role)


@dataclass(frozen=True)
class Made:
    """What a stage made: all rows of its tables, figures about them, and checkpoints."""

    tables: Tables
    figures: Figures = field(default_factory=dict)
    checkpoints: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Trained(Made):
    """What a stage made that trained a language model."""

    model: Model

    @classmethod
    def of(
        cls, name: str, ref: ModelRef, tables: Tables, figures: Figures, *checkpoints: Checkpoint
    ) -> Trained:
        """With the model of the single row of the table `name`."""
        [row] = tables[name]
        return cls(tables, figures, checkpoints, model=Model(ref, name, row))


@dataclass(frozen=True)
class Lesson:
    """What an arm learns from: rows of `table`."""

    table: str
    rows: Sequence[Row]


def joined(parts: Iterable[Made]) -> Made:
    tables: dict[str, list[Row]] = {}
    figures: dict[str, Any] = {}
    checkpoints: tuple[Checkpoint, ...] = ()
    for part in parts:
        for table, rows in part.tables.items():
            tables[table] = tables.get(table, []) + rows
        figures |= part.figures
        checkpoints += part.checkpoints
    return Made(tables, figures, checkpoints)
