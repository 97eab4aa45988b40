"""Whether a policy became better: instructions kept from its training, and the gain on them.

The split goes by each instruction's own hash, so adding or removing one moves no other across; the
gain is a mean of paired differences with a percentile bootstrap interval over instructions.
"""

from __future__ import annotations

from collections.abc import Iterable

from refine_dagster.errors import RefineError
from refine_dagster.seeding import request_seed

SEED_RANGE = 2**63


class SplitError(RefineError):
    """There are too few instructions to keep some from training."""


def held_out_split(ids: Iterable[str], share: float, run_seed: str) -> tuple[list[str], list[str]]:
    """Split instruction ids into those to train on and those to measure on, each sorted.

    An id is held out where its hash falls under `share`; the sizes follow only on average. Where
    one side would stay empty, the id with the nearest hash is moved there.

    Raises:
        SplitError: fewer than two different ids.
    """
    drawn = sorted(
        (request_seed(run_seed, "held_out", name) / SEED_RANGE, name) for name in set(ids)
    )
    if len(drawn) < 2:
        raise SplitError(
            f"{len(drawn)} instructions cannot be split into training and held-out ones",
            fix="raise self_instruct.target, or give more seeds",
        )
    held = sum(draw < share for draw, _ in drawn)
    held = min(max(held, 1), len(drawn) - 1)
    names = [name for _, name in drawn]
    return sorted(names[held:]), sorted(names[:held])
