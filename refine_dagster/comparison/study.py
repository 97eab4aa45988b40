"""What a comparison is: arms x sizes x random seeds, over one shared material, held-out tasks.

    arms   what a model learns from (`arms.py`)
    sizes  how many instructions of the pool it may learn from, drawn anew for each random seed;
           a smaller draw is part of every larger one. In a comparison of methods, how many model
           calls a method may have made for its instructions (`methods.py`)
    seeds  what is drawn again: the demonstrations and noise of instances, the noise of
           reinforcement and of fine-tuning, and which instructions a size takes

The pool itself is the same throughout, and so are the base model, the judge and the held-out tasks.
All arms of one size take the same number of optimiser steps: set by the size, or, where it counts
calls, by the most instructions that any method has for so many, whichever methods are compared. An
arm that finds nothing to learn from is the base model.

What all arms of a comparison share: one base model, one judge, one pool, one set of seeds.

It is read from a home in which the graph was materialised, and is small enough to be handed to
other processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_dagster.comparison.arms import METHODS, Arm, Method
from refine_dagster.comparison.methods import MethodCalls, Share
from refine_dagster.config.profile import Profile
from refine_dagster.config.registered import plug_ins_of
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.super_ni import Task, tasks_hash
from refine_dagster.hashing import content_id
from refine_dagster.models.language_model import ModelRef, registered_base
from refine_dagster.refine_af.instances import SeedTriple, seed_examples
from refine_dagster.self_instruct.decisions import in_slot_order
from refine_dagster.training.sft import steps_for
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse

NEEDED = ("seed_tasks", "base_model", "feedback_judge", "filtered_instructions")


@dataclass(frozen=True)
class Material:
    """The shared inputs.

    Attributes:
        base: the base model.
        judge: the live row of `feedback_judge`.
        seeds: seed examples, by seed id.
        pool: live rows of `filtered_instructions`, in slot order.
        checkpoints: artifact root of the home.
    """

    base: ModelRef
    judge: Mapping[str, Any]
    seeds: tuple[SeedTriple, ...]
    pool: tuple[dict[str, Any], ...]
    checkpoints: Path

    @property
    def content(self) -> str:
        """Names everything here by content, not by place."""
        return content_id(
            "comparison_material",
            {
                "base": self.base.fingerprint,
                "judge": self.judge["fingerprint"],
                "seeds": [seed.example.render() for seed in self.seeds],
                "pool": [row["instruction"] for row in self.pool],
            },
        )


def read_material(warehouse: Warehouse, checkpoints: Path) -> Material:
    """Read a home.

    Raises:
        RefineError: an asset that is needed was never materialised, or is empty.
    """
    absent = [name for name in NEEDED if warehouse.read(name).is_empty()]
    if absent:
        raise RefineError(
            f"a comparison needs {', '.join(absent)}, and there are no rows",
            where=str(warehouse.path),
            fix="run `refine-dagster run --select "
            '"+feedback_judge or +filtered_instructions"` first',
        )
    seeds = seed_examples(warehouse.read("seed_tasks").to_dicts())
    pool = in_slot_order(warehouse.read("filtered_instructions").to_dicts())
    [base_row] = warehouse.read("base_model").to_dicts()
    [judge_row] = warehouse.read("feedback_judge").to_dicts()
    return Material(
        base=registered_base(CheckpointStore(checkpoints), base_row),
        judge={name: judge_row[name] for name in ("kind", "fingerprint", "checkpoint_hash")},
        seeds=tuple(sorted(seeds, key=lambda seed: seed.seed_id)),
        pool=tuple(pool),
        checkpoints=checkpoints,
    )


# Raised when the same plan would give other figures.
REVISION = 1


class StudyError(RefineError):
    """The comparison asked for cannot be made."""


@dataclass(frozen=True)
class Place:
    """Which cell: an arm with one random seed at one size; see `cells.Cell`."""

    arm: Arm
    random_seed: int
    size: int


@dataclass(frozen=True)
class Study:
    """A comparison.

    Attributes:
        material: what all arms share.
        profile: every config field that an arm does not set.
        arms: at least one.
        sizes: ascending, none larger than the pool; or numbers of calls.
        random_seeds: how many; they are numbered from 1.
        tasks: the held-out tasks.
        methods: the home's calls, where methods are compared.
        shares: of every method at every number of calls, compared or not; empty otherwise.
    """

    material: Material
    profile: Profile
    arms: tuple[Arm, ...]
    sizes: tuple[int, ...]
    random_seeds: int
    tasks: tuple[Task, ...]
    methods: MethodCalls | None = None
    shares: tuple[Share, ...] = ()

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
        parts = [REVISION, self.material.content, config, tasks_hash(self.tasks)]
        if self.methods is not None:
            parts.append(self.methods.content)
        return content_id("study", *parts)

    @property
    def size_name(self) -> str:
        """What the sizes count, as a heading."""
        return "size" if self.methods is None else "calls"

    @property
    def size_label(self) -> str:
        """The same in words."""
        return "instructions of the pool" if self.methods is None else "model calls"

    def share(self, method: Method, calls: int) -> Share:
        """What a method's first `calls` calls brought; one of the study's numbers of calls."""
        [found] = [one for one in self.shares if (one.method, one.calls) == (method, calls)]
        return found

    def steps(self, size: int) -> int:
        """Optimiser steps of every arm's fine-tuning at one size."""
        of_size = [len(one.instructions) for one in self.shares if one.calls == size]
        return steps_for(max([1, *of_size]) if of_size else size, self.profile.supervised)

    def places(self, random_seed: int | None = None) -> list[Place]:
        """The cells of one random seed, or of all; the base arm draws no noise and has one."""
        seeds = range(1, self.random_seeds + 1) if random_seed is None else [random_seed]
        places = []
        for seed in seeds:
            for arm in self.arms:
                if arm.kind != "base":
                    places += [Place(arm, seed, size) for size in self.sizes]
                elif seed == 1:
                    places.append(Place(arm, 0, 0))
        return places


def plan_study(
    material: Material,
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
        methods: compare methods at equal numbers of calls; `arms` are then `arms.parse_methods`'s.

    Raises:
        StudyError: a size is not between 1 and the pool's, or a number of calls not between 1 and
            the shorter method's.
    """
    most = len(material.pool) if methods is None else methods.most
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
    shares = [] if methods is None else [methods.share(one, n) for n in chosen for one in METHODS]
    return Study(
        material,
        profile,
        tuple(arms),
        chosen,
        random_seeds,
        tuple(tasks),
        methods,
        tuple(shares),
    )
