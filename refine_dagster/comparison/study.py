"""What a comparison is: arms x sizes x random seeds, over one shared material, held-out tasks.

    arms   what a model learns from (`arms.py`)
    sizes  how many instructions of the pool it may learn from, drawn anew for each random seed;
           a smaller draw is part of every larger one
    seeds  what is drawn again: the demonstrations and noise of instances, the noise of
           reinforcement and of fine-tuning, and which instructions a size takes

The pool itself is the same throughout, and so are the base model, the judge and the held-out tasks.
All arms of one size take the same number of optimiser steps, set by the size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.comparison.arms import Arm
from refine_dagster.comparison.material import Material
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.super_ni import Task, tasks_hash
from refine_dagster.lineage.content import content_id
from refine_dagster.profile import Profile

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
        profile: every knob that an arm does not set.
        arms: at least one.
        sizes: ascending, none larger than the pool.
        random_seeds: how many; they are numbered from 1.
        tasks: the held-out tasks.
    """

    material: Material
    profile: Profile
    arms: tuple[Arm, ...]
    sizes: tuple[int, ...]
    random_seeds: int
    tasks: tuple[Task, ...]

    @property
    def name(self) -> str:
        """Names what every cell depends on; arms, sizes and seeds may be added to a study."""
        profile = self.profile
        knobs = {
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
            "device": profile.device.model_dump(mode="json"),
            "salt": profile.salt,
        }
        return content_id("study", REVISION, self.material.content, knobs, tasks_hash(self.tasks))

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
) -> Study:
    """A study, checked.

    Args:
        sizes: in any order; empty takes the whole pool.

    Raises:
        StudyError: a size is not between 1 and the pool's.
    """
    pool = len(material.pool)
    chosen = tuple(sorted(set(sizes))) or (pool,)
    wrong = [size for size in chosen if not 1 <= size <= pool]
    if wrong:
        raise StudyError(
            f"no such size: {', '.join(map(str, wrong))}; the pool has {pool} instructions",
            where="--sizes",
            fix=f"name sizes from 1 to {pool}, or materialise a larger pool (self_instruct.target)",
        )
    return Study(material, profile, tuple(arms), chosen, random_seeds, tuple(tasks))
