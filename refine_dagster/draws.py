"""Rendezvous draws: which demonstrations a request shows (architecture 3.2).

Every (slot, member) pair has a weight, the sha256 of both names; a slot shows its `k` members of
highest weight. No draw depends on another or on the order of the members, so that adding, editing
or removing one of n members changes about k/n of the prompts. A seeded shuffle would change nearly
all of them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from refine_dagster.hashing import canonical_json


def draw(members: Iterable[str], k: int, *slot: str | int) -> list[str]:
    """The `k` members of highest weight in `slot`, heaviest first; all of them if fewer.

    Args:
        members: names to draw from; repeated names count once.
        k: how many are shown.
        slot: what the draw is for: run seed, purpose, round, request.
    """
    prefix = canonical_json(list(slot)).encode() + b"\x00"
    weights = {member: hashlib.sha256(prefix + member.encode()).digest() for member in set(members)}
    return sorted(weights, key=lambda member: (weights[member], member), reverse=True)[:k]
