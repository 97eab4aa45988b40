"""The instructor's rewards (docs/methods.md, section 5.2).

`paper` pays 1 for every rewrite that is kept. `novelty` pays a kept rewrite by its distance from
everything that was kept recently, so that an operation pays less the more it is used:

    reward = valid * (1 - max cosine to the archive and to the parent) - cost * calls

The archive holds the latest `capacity` texts, so the reward does not vanish in a long training.
Texts of the same seed from earlier episodes are not compared. (Otherwise a training that passes
over few seeds many times would learn to leave them.)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from refine_dagster.evaluation.diversity import Embedding
from refine_dagster.teams_rl.chain import Outcome


class Reward(Protocol):
    """Pays for outcomes, in order; may have a memory of what it has paid for."""

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        """One reward for each outcome."""

    def clear(self) -> None:
        """Empty the memory."""
        return

    def state(self) -> list[dict[str, Any]]:
        """The memory, oldest first, as plain values."""
        return []

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Replace the memory by a saved state."""
        return


class PaperReward(Reward):
    """1 for a kept rewrite, else 0; has no memory."""

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        return [1.0 if outcome.kept else 0.0 for outcome in outcomes]


class NoveltyReward(Reward):
    """Validity times distance from recent texts, less cost.

    Args:
        capacity: texts in the archive; the oldest leaves first.
        cost: deducted for every call of executor and reviewer.
    """

    def __init__(self, embedding: Embedding, capacity: int = 2048, cost: float = 0.0) -> None:
        if capacity < 1:
            raise ValueError(f"an archive of {capacity} texts")
        self._embedding = embedding
        self._capacity = capacity
        self._cost = cost
        self.clear()

    def pay(self, outcomes: Sequence[Outcome]) -> list[float]:
        rewards = []
        for outcome in outcomes:
            novelty = 0.0
            if outcome.kept:
                novelty = 1.0 - self._nearest(outcome)
                self._add(_Kept(outcome.text, outcome.before.seed_id, outcome.before.episode))
            rewards.append(novelty - self._cost * outcome.calls)
        return rewards

    def clear(self) -> None:
        self._kept: deque[_Kept] = deque(maxlen=self._capacity)
        self._added = 0
        self._vectors = np.zeros((self._capacity, self._embedding.dimensions), dtype=np.float32)
        # The number of the seed and of the episode of each archived text.
        self._seeds = np.full(self._capacity, -1, dtype=np.int64)
        self._episodes = np.full(self._capacity, -1, dtype=np.int64)
        self._numbers: dict[str, int] = {}

    def state(self) -> list[dict[str, Any]]:
        return [asdict(kept) for kept in self._kept]

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
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
        index = self._added % self._capacity
        self._vectors[index] = self._embedding.embed([kept.text])[0]
        self._seeds[index] = self._numbers.setdefault(kept.seed_id, len(self._numbers))
        self._episodes[index] = kept.episode
        self._added += 1
        self._kept.append(kept)


@dataclass(frozen=True)
class _Kept:
    """A text of the archive and its episode."""

    text: str
    seed_id: str
    episode: int
