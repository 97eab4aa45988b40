"""A cell: one arm with one random seed at one dataset size; its result is kept as a JSON file.

A comparison that was cut off goes on where it stopped, because finished cells are files, written
whole or not at all; one that is widened by an arm, a size or a seed computes only the new cells.
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
    """A policy's training and its gain on held-out instructions, by the arm's own rule.

    Attributes:
        steps: optimiser steps taken.
        ended_by: `steps`, or the guard that ended it.
        kl: to the base policy at the last step, nats a token.
        seconds: training, without measuring.
    """

    steps: int
    ended_by: str
    kl: float
    reward_before: float
    reward_after: float
    gain: float
    gain_low: float
    gain_high: float
    seconds: float


@dataclass(frozen=True)
class DatasetResult:
    """The dataset that an arm learned from.

    Attributes:
        rows: examples.
        format_valid: share of the pool's instances that passed the format gate; of a method's
            arm, of those of its instructions.
        parts: part of the judge -> its mean over the rows.
        distinct_bigrams: share of different word pairs among all of the rows' outputs.
    """

    rows: int
    format_valid: float
    parts: Mapping[str, float]
    distinct_bigrams: float


@dataclass(frozen=True)
class CellResult:
    """The result of a cell.

    Attributes:
        tasks: a score for each held-out task, in task order.
        dataset: None for the base arm, and for one that found nothing to learn from.
        answers: part of the judge -> Spearman correlation, over all held-out instances, of the
            judge's score of the answer and the answer's ROUGE-L; None where one does not vary.
        seconds: fine-tuning and evaluation.
    """

    arm: str
    random_seed: int
    size: int
    tasks: tuple[TaskScore, ...]
    dataset: DatasetResult | None
    policy: PolicyResult | None
    answers: Mapping[str, float | None]
    seconds: float


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
