"""A comparison: arms x sizes x random seeds, over shared inputs and held-out tasks.

    arms   what a model learns from (`arms.py`)
    sizes  how many instructions of the pool it may learn from, drawn for each random seed; a
           smaller draw is part of every larger one. In a comparison of methods, how many model
           calls a method may have made (`methods.py`)
    seeds  what is drawn again: instances, reinforcement, fine-tuning, and what a size takes

All arms of one size take the same number of optimiser steps: set by the size, or, where it counts
calls, by the most instructions that any method has for so many. An arm that has nothing to learn
from is the base model.

A cell is one arm with one random seed at one size; its result is a JSON file, written whole or not
at all. So a comparison that was interrupted continues, and one that gets another arm, size or seed
computes only the new cells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from refine_dagster.comparison.arms import METHODS, Arm, Method
from refine_dagster.comparison.methods import MethodCalls, Share
from refine_dagster.config.profile import Profile
from refine_dagster.config.section import plug_ins_of
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.answers import TaskScore
from refine_dagster.evaluation.reference_loss import ReferenceLosses, TaskLoss
from refine_dagster.evaluation.super_ni import Task, tasks_hash
from refine_dagster.hashing import canonical_json, content_id
from refine_dagster.home import write_atomically
from refine_dagster.models.language_model import registered_base
from refine_dagster.prompts.example import Example
from refine_dagster.registry import ALGORITHMS
from refine_dagster.runtime import Model
from refine_dagster.self_instruct.decisions import in_slot_order
from refine_dagster.training.sft import steps_for
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.warehouse import Warehouse

NEEDED = ("seed_tasks", "base_model", "feedback_judge", "filtered_instructions")


@dataclass(frozen=True)
class StudyInputs:
    """What all arms share, read from a home; small enough to be sent to other processes."""

    base: Model
    judge: Row  # of `feedback_judge`
    seeds: tuple[Row, ...]
    pool: tuple[Row, ...]  # in slot order
    checkpoints: Path

    @property
    def content(self) -> str:
        """Names everything here, whatever its path."""
        return content_id(
            "comparison_material",
            {
                "base": self.base.ref.fingerprint,
                "judge": self.judge["fingerprint"],
                "seeds": [Example.of(row).render() for row in self.seeds],
                "pool": [row["instruction"] for row in self.pool],
            },
        )


def read_inputs(warehouse: Warehouse, checkpoints: Path) -> StudyInputs:
    """Read a home.

    Raises:
        RefineError: an asset that is needed was never materialised, or is empty.
    """
    rows = {name: warehouse.read(name).to_dicts() for name in NEEDED}
    absent = [name for name in NEEDED if not rows[name]]
    if absent:
        raise RefineError(
            f"a comparison needs {', '.join(absent)}, and there are no rows",
            where=str(warehouse.path),
            fix="run `refine-dagster run --select "
            '"+feedback_judge or +filtered_instructions"` first',
        )
    [base], [judge] = rows["base_model"], rows["feedback_judge"]
    ref = registered_base(CheckpointStore(checkpoints), base)
    return StudyInputs(
        base=Model(ref, "base_model", base),
        judge=judge,
        seeds=tuple(sorted(rows["seed_tasks"], key=lambda row: str(row["seed_id"]))),
        pool=tuple(in_slot_order(rows["filtered_instructions"])),
        checkpoints=checkpoints,
    )


# Raised when the same plan would give other figures.
REVISION = 2


class StudyError(RefineError):
    """The comparison asked for cannot be made."""


@dataclass(frozen=True)
class Study:
    """A comparison."""

    inputs: StudyInputs
    profile: Profile
    arms: tuple[Arm, ...]
    sizes: tuple[int, ...]  # ascending
    random_seeds: int
    tasks: tuple[Task, ...]
    methods: MethodCalls | None = None  # the home's calls, where methods are compared
    shares: tuple[Share, ...] = ()  # of every method at every number of calls

    @property
    def name(self) -> str:
        """Names what every cell depends on; arms, sizes and seeds may be added to a study."""
        profile = self.profile
        config = {
            "instances": profile.instances.model_dump(mode="json"),
            "reward": profile.reward.model_dump(mode="json", exclude={"preset"}),
            "self_instruct_preset": profile.reward.preset,
            "reinforcement": profile.reinforcement.model_dump(
                mode="json", exclude={"algorithm", "save_every"}
            ),
            "selection": profile.selection.model_dump(mode="json"),
            "supervised": profile.supervised.model_dump(mode="json"),
            "evaluation": profile.evaluation.model_dump(
                mode="json", include={"max_source_tokens", "max_new_tokens"}
            ),
            **profile.generator.deciding(),
            **plug_ins_of(profile.generator, profile.reward),
            "device": profile.device.model_dump(mode="json"),
            "salt": profile.run_seed,
        }
        parts = [REVISION, self.inputs.content, config, tasks_hash(self.tasks)]
        if self.methods is not None:
            parts.append(self.methods.content)
        return content_id("study", *parts)

    @property
    def size_name(self) -> str:
        """What the sizes count, as a heading."""
        return "size" if self.methods is None else "calls"

    @property
    def size_label(self) -> str:
        return "instructions of the pool" if self.methods is None else "model calls"

    def share(self, method: Method, calls: int) -> Share:
        """What a method's first calls yield; `calls` is one of the study's numbers."""
        wanted = (method, calls)
        return next(share for share in self.shares if (share.method, share.calls) == wanted)

    def steps(self, size: int) -> int:
        """Optimiser steps of every arm's fine-tuning at one size."""
        of_size = [len(share.instructions) for share in self.shares if share.calls == size]
        return steps_for(max([1, *of_size]) if of_size else size, self.profile.supervised)

    def cell_keys(self, random_seed: int | None = None) -> list[CellKey]:
        """The cells of one random seed, or of all; the base arm draws no noise and has one."""
        seeds = range(1, self.random_seeds + 1) if random_seed is None else [random_seed]
        keys = []
        for seed in seeds:
            for arm in self.arms:
                if arm.kind != "base":
                    keys += [CellKey(arm, seed, size) for size in self.sizes]
                elif seed == 1:
                    keys.append(CellKey(arm, 0, 0))
        return keys


def plan_study(
    inputs: StudyInputs,
    profile: Profile,
    arms: Sequence[Arm],
    sizes: Sequence[int],
    random_seeds: int,
    tasks: Sequence[Task],
    methods: MethodCalls | None = None,
) -> Study:
    """A study, checked.

    Args:
        sizes: in any order; empty takes the whole pool, or as many calls as both methods made.
        methods: compare methods at equal numbers of calls; `arms` are then of `arms.parse_methods`.

    Raises:
        StudyError: a size is below 1 or above what the home has.
    """
    most = len(inputs.pool) if methods is None else methods.most
    chosen = tuple(sorted(set(sizes))) or (most,)
    wrong = ", ".join(str(size) for size in chosen if not 1 <= size <= most)
    if wrong and methods is None:
        raise StudyError(
            f"no such size: {wrong}; the pool has {most} instructions",
            where="--sizes",
            fix=f"name sizes from 1 to {most}, or materialise a larger pool (self_instruct.target)",
        )
    if wrong and methods is not None:
        made = ", ".join(f"{count} calls by {name}" for name, count in methods.totals.items())
        raise StudyError(
            f"no such number of calls: {wrong}; the home has {made}",
            where="--sizes",
            fix=f"name numbers from 1 to {most}, or materialise more (self_instruct.target, "
            "teams_rl.evolved_seeds)",
        )
    shares = [] if methods is None else [methods.share(name, n) for n in chosen for name in METHODS]
    arms, tasks = tuple(arms), tuple(tasks)
    return Study(inputs, profile, arms, chosen, random_seeds, tasks, methods, tuple(shares))


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
    losses: ReferenceLosses  # of the same tasks
    seconds: float  # fine-tuning and evaluation


class CellFolder:
    """The cells of one comparison under a folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def has(self, key: CellKey) -> bool:
        return self._path(key).is_file()

    def read(self, key: CellKey) -> CellResult:
        values = json.loads(self._path(key).read_text(encoding="utf-8"))
        dataset, policy, losses = values["dataset"], values["policy"], values["losses"]
        return CellResult(
            **{
                **values,
                "tasks": tuple(TaskScore(**task) for task in values["tasks"]),
                "dataset": DatasetResult(**dataset) if dataset else None,
                "policy": PolicyResult(**policy) if policy else None,
                "losses": ReferenceLosses(
                    losses["temperature"], tuple(TaskLoss(**task) for task in losses["tasks"])
                ),
            }
        )

    def write(self, key: CellKey, result: CellResult) -> None:
        write_atomically(self._path(key), canonical_json(asdict(result)) + "\n")

    def _path(self, key: CellKey) -> Path:
        versions = ALGORITHMS.versions(key.arm.algorithm) if key.arm.algorithm else {}
        name = "-".join([key.arm.name, *versions.values()]).replace("/", "-")
        return self.root / f"{name}__size_{key.size}__seed_{key.random_seed}.json"
