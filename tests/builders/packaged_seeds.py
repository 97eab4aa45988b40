"""The packaged seeds, as episodes begin at them."""

from __future__ import annotations

from refine_dagster.seeds.readers import PACKAGED, read_seeds
from refine_dagster.teams_rl.chain import Seed


def packaged_seeds() -> list[Seed]:
    """All of them, by id."""
    return [Seed(task.seed_id, task.instruction) for task in read_seeds(PACKAGED).seeds]
