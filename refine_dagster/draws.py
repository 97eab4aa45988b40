"""Draws and splits by hash: adding, editing or removing a member moves hardly another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json
from refine_dagster.seeding import SEED_RANGE, request_seed


class SplitError(RefineError):
    """There are too few instructions to keep some from training."""


def draw(members: Iterable[str], k: int, *slot: str | int) -> list[str]:
    """The `k` members of highest weight in `slot`, heaviest first; all of them if fewer.

    A rendezvous draw: a member's weight is the sha256 of slot and name. A change of one of n
    members changes about k/n of the draws. `slot` says what it is for: run seed, purpose, round.
    """
    prefix = canonical_json(list(slot)).encode() + b"\x00"
    weights = {member: hashlib.sha256(prefix + member.encode()).digest() for member in set(members)}
    return sorted(weights, key=lambda member: (weights[member], member), reverse=True)[:k]


def draw_different(texts: Mapping[str, str], k: int, *slot: str | int) -> list[str]:
    """`draw` of members with different texts: of those with one text, only the heaviest counts.

    Args:
        texts: member -> its text.
    """
    heaviest: dict[str, str] = {}
    for member in draw(texts, len(texts), *slot):
        heaviest.setdefault(texts[member], member)
    return list(heaviest.values())[:k]


def falls_under(share: float, *name: str | int) -> bool:
    """Whether a name belongs to that share of all names, decided by its own hash."""
    return request_seed(*name) < share * SEED_RANGE


def held_out_split(ids: Iterable[str], share: float, run_seed: str) -> tuple[list[str], list[str]]:
    """Split ids into those to train on and those to measure on, each sorted.

    An id is held out where its hash falls under `share`; the sizes follow only on average. Where
    one side would stay empty, the id with the nearest hash is moved there.
    """
    ordered = sorted(set(ids), key=lambda name: (request_seed(run_seed, "held_out", name), name))
    if len(ordered) < 2:
        raise SplitError(
            f"{len(ordered)} instructions cannot be split into training and held-out ones",
            fix="raise self_instruct.target, or give more seeds",
        )
    held = sum(falls_under(share, run_seed, "held_out", name) for name in ordered)
    held = min(max(held, 1), len(ordered) - 1)
    return sorted(ordered[held:]), sorted(ordered[:held])
