"""Which seed an episode begins at: pass after pass over all seeds, each pass in its own order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.generation.request import request_seed
from refine_dagster.teams_rl.chain import Chain
from refine_dagster.teams_rl.operations import one_line


@dataclass(frozen=True)
class Seed:
    """An instruction to begin at."""

    seed_id: str
    text: str


class Episodes:
    """An endless sequence of chains at their first step; any of them is found by its number.

    Args:
        seeds: at least one; their order does not matter.
        salt: names the order of every pass.

    Raises:
        ValueError: there are no seeds.
    """

    def __init__(self, seeds: Sequence[Seed], salt: str) -> None:
        if not seeds:
            raise ValueError("an episode begins at a seed, and there is none")
        self._seeds = list(seeds)
        self._salt = salt
        self._turn = -1
        self._order: list[Seed] = []

    def chain(self, number: int) -> Chain:
        """Episode `number`, from 0."""
        turn, place = divmod(number, len(self._seeds))
        if turn != self._turn:
            self._turn = turn
            self._order = sorted(
                self._seeds,
                key=lambda seed: (
                    request_seed(self._salt, "episodes", turn, seed.seed_id),
                    seed.text,
                ),
            )
        seed = self._order[place]
        return Chain(seed.seed_id, number, one_line(seed.text))
