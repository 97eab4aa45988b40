"""A cell: one arm with one random seed at one dataset size; its result is kept as a JSON file.

Files are written whole or not at all. So a comparison that was interrupted continues, and one that
gets another arm, size or seed computes only the new cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from refine_dagster.comparison.arms import Arm
from refine_dagster.evaluation.answers import TaskScore
from refine_dagster.files import write_atomically
from refine_dagster.hashing import canonical_json
from refine_dagster.registry import ALGORITHMS


@dataclass(frozen=True)
class CellKey:
    """Names a cell; the base arm has random seed and size 0."""

    arm: Arm
    random_seed: int
    size: int


@dataclass(frozen=True)
class PolicyResult:
    """A policy's training and its gain on held-out instructions, by the arm's own rule."""

    steps: int  # optimiser steps taken
    ended_by: str  # `steps`, or the guard that ended it
    kl: float  # to the base policy at the last step, nats a token
    reward_before: float
    reward_after: float
    gain: float
    gain_low: float
    gain_high: float
    seconds: float  # training, without measuring


@dataclass(frozen=True)
class DatasetResult:
    """The dataset that an arm learned from."""

    rows: int
    format_valid: float  # share of the arm's instances that passed the format gate
    parts: Mapping[str, float]  # part of the judge -> its mean over the rows
    distinct_bigrams: float  # share of different word pairs among all of the rows' outputs


@dataclass(frozen=True)
class CellResult:
    """The result of a cell."""

    arm: str
    random_seed: int
    size: int
    tasks: tuple[TaskScore, ...]
    dataset: DatasetResult | None  # None: there was nothing to learn from
    policy: PolicyResult | None
    # Part of the judge -> Spearman correlation of its scores of answers with their ROUGE-L.
    answers: Mapping[str, float | None]
    seconds: float  # fine-tuning and evaluation


class CellFolder:
    """The cells of one comparison under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: CellKey) -> bool:
        return self._path(key).is_file()

    def read(self, key: CellKey) -> CellResult:
        values = json.loads(self._path(key).read_text(encoding="utf-8"))
        dataset, policy = values["dataset"], values["policy"]
        return CellResult(
            **{
                **values,
                "tasks": tuple(TaskScore(**task) for task in values["tasks"]),
                "dataset": DatasetResult(**dataset) if dataset else None,
                "policy": PolicyResult(**policy) if policy else None,
            }
        )

    def write(self, key: CellKey, result: CellResult) -> None:
        write_atomically(self._path(key), canonical_json(asdict(result)) + "\n")

    def _path(self, key: CellKey) -> Path:
        versions = ALGORITHMS.versions(key.arm.algorithm) if key.arm.algorithm else {}
        name = "-".join([key.arm.name, *versions.values()]).replace("/", "-")
        return self.root / f"{name}__size_{key.size}__seed_{key.random_seed}.json"
