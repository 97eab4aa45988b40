"""Who chooses operations: the protocol, and the policies that learn nothing.

Every policy has a name and a version: the version decides its choices, together with the chain, so
that a row that names it can be replayed. All noise of a choice is named by salt, seed and step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Protocol

from refine_dagster.generation.request import request_seed
from refine_dagster.lineage.content import canonical_json
from refine_dagster.teams_rl.chain import Chain
from refine_dagster.teams_rl.operations import COUNT, NAMES


class InstructorPolicy(Protocol):
    """Chooses the next operation of each chain.

    Attributes:
        name: for reports: `random`, `round_robin`, `fixed:breadth`, `ppo`, `trpo`.
        version: names its content, 64 hex digits.
    """

    name: str
    version: str

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        """Places in `OPERATIONS`, one a chain; each a function of that chain alone."""


class RandomPolicy:
    """Every operation with equal chance (WizardLM's own choice; implements `InstructorPolicy`)."""

    name = "random"

    def __init__(self, salt: str) -> None:
        self._salt = salt
        self.version = policy_version(self.name, salt)

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [int(uniform(self._salt, chain) * COUNT) for chain in chains]


class RoundRobinPolicy:
    """All operations in turn; each seed begins at its own, the next episode at the next."""

    name = "round_robin"

    def __init__(self) -> None:
        self.version = policy_version(self.name)

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [
            (request_seed(self.name, chain.seed_id) + chain.episode + chain.step) % COUNT
            for chain in chains
        ]


class FixedPolicy:
    """One operation, always.

    Args:
        operation: place in `OPERATIONS`.
    """

    def __init__(self, operation: int) -> None:
        self.name = f"fixed:{NAMES[operation]}"
        self.version = policy_version(self.name)
        self._operation = operation

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [self._operation for _ in chains]


def policy_version(*parts: str) -> str:
    """sha256 of what decides a policy's choices, 64 hex digits."""
    return hashlib.sha256(canonical_json(["instructor", *parts, list(NAMES)]).encode()).hexdigest()


def uniform(salt: str, chain: Chain) -> float:
    """A number in [0, 1) for the next choice on a chain."""
    seed = request_seed(salt, "operation", chain.seed_id, chain.episode, chain.step)
    # The upper 53 bits of 63, a double's worth.
    return float((seed >> 10) * 2.0**-53)
