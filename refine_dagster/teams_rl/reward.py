"""What an instructor is paid for a step.

`paper` pays 1 for every rewrite that is kept, as published. Nothing in it speaks of the dataset: a
policy that has found one operation that always differs from its parent earns all there is, and a
longer training makes the dataset narrower (methods C).

`novelty` pays a kept rewrite by how far it is from everything that was kept lately,

    reward = valid * (1 - max cosine to the archive and to the parent) - cost * calls,

so that an operation pays less the more it is used. The archive rolls: only the latest `capacity`
texts are compared, which keeps the reward alive however long the training is. It stands for the
dataset, in which a seed is evolved once: what earlier episodes made of the same seed is not
compared. (With it, a training that passes over few seeds many times would learn to leave them.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from refine_dagster.teams_rl.chain import Outcome
from refine_dagster.teams_rl.embedding import Embedding


class Reward(Protocol):
    """Pays for outcomes, in order; may remember what it has paid for."""

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        """One reward an outcome."""

    def clear(self) -> None:
        """Forget."""

    def state(self) -> list[dict[str, Any]]:
        """What it remembers, as plain values; `restore` takes it back."""

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Remember what another one did."""


class PaperReward:
    """1 for a kept rewrite, else 0 (implements `Reward`)."""

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        return [1.0 if outcome.kept else 0.0 for outcome in outcomes]

    def clear(self) -> None:
        """Nothing is remembered."""

    def state(self) -> list[dict[str, Any]]:
        return []

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Nothing is remembered."""


class NoveltyReward:
    """Validity times distance from what was kept lately, less cost (implements `Reward`).

    Args:
        embedding: what distance is measured in.
        capacity: texts in the archive; the oldest leaves first.
        cost: taken off for every call of executor and reviewer.
    """

    def __init__(self, embedding: Embedding, capacity: int = 2048, cost: float = 0.0) -> None:
        if capacity < 1:
            raise ValueError(f"an archive of {capacity} texts")
        self._embedding = embedding
        self._capacity = capacity
        self._cost = cost
        self.clear()

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        """Rewards; every kept text is in the archive of the next outcome."""
        rewards = []
        for outcome in outcomes:
            novelty = 0.0
            if outcome.kept:
                novelty = 1.0 - self._nearest(outcome)
                self._add(_Kept(outcome.text, outcome.before.seed_id, outcome.before.episode))
            rewards.append(novelty - self._cost * outcome.calls)
        return rewards

    def clear(self) -> None:
        """Empty the archive."""
        self._kept: deque[_Kept] = deque(maxlen=self._capacity)
        self._added = 0
        self._vectors = np.zeros((self._capacity, self._embedding.dimensions), dtype=np.float32)
        # Who wrote each place of the archive: number of the seed, number of the episode.
        self._seeds = np.full(self._capacity, -1, dtype=np.int64)
        self._episodes = np.full(self._capacity, -1, dtype=np.int64)
        self._numbers: dict[str, int] = {}

    def state(self) -> list[dict[str, Any]]:
        """The archive, oldest first."""
        return [asdict(kept) for kept in self._kept]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Take an archive back."""
        self.clear()
        for kept in state:
            self._add(_Kept(**kept))

    def _nearest(self, outcome: Outcome) -> float:
        """Highest cosine with the parent and the archive, 0 or more."""
        before = outcome.before
        text, parent = self._embedding.embed([outcome.text, before.text])
        filled = len(self._kept)
        own = self._seeds[:filled] == self._numbers.get(before.seed_id, -1)
        other_episodes = own & (self._episodes[:filled] != before.episode)
        cosines = np.where(other_episodes, 0.0, self._vectors[:filled] @ text)
        return max(0.0, float(text @ parent), float(cosines.max(initial=0.0)))

    def _add(self, kept: _Kept) -> None:
        place = self._added % self._capacity
        self._vectors[place] = self._embedding.embed([kept.text])[0]
        self._seeds[place] = self._numbers.setdefault(kept.seed_id, len(self._numbers))
        self._episodes[place] = kept.episode
        self._added += 1
        self._kept.append(kept)


@dataclass(frozen=True)
class _Kept:
    """A text of the archive and the episode that it was kept in."""

    text: str
    seed_id: str
    episode: int
