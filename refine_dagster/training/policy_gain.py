"""Whether a policy became better: instructions kept from its training, and the gain on them.

The split goes by each instruction's own hash, so adding or removing one moves no other across; the
gain is a mean of paired differences with a percentile bootstrap interval over instructions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from refine_dagster.errors import RefineError
from refine_dagster.generation.request import request_seed

SEED_RANGE = 2**63
# Resamples held in memory together.
CHUNK = 100


class SplitError(RefineError):
    """There are too few instructions to keep some from training."""


@dataclass(frozen=True)
class Gain:
    """A mean paired difference and its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def held_out_split(ids: Iterable[str], share: float, salt: str) -> tuple[list[str], list[str]]:
    """Split instruction ids into those to train on and those to measure on, each sorted.

    An id is held out where its hash falls under `share`; the sizes follow only on average. Where
    one side would stay empty, the id with the nearest hash is moved there.

    Raises:
        SplitError: fewer than two different ids.
    """
    drawn = sorted((request_seed(salt, "held_out", name) / SEED_RANGE, name) for name in set(ids))
    if len(drawn) < 2:
        raise SplitError(
            f"{len(drawn)} instructions cannot be split into training and held-out ones",
            fix="raise self_instruct.target, or give more seeds",
        )
    held = sum(draw < share for draw, _ in drawn)
    held = min(max(held, 1), len(drawn) - 1)
    names = [name for _, name in drawn]
    return sorted(names[held:]), sorted(names[:held])


def paired_gain(
    before: Sequence[float], after: Sequence[float], samples: int = 2000, *, salt: str = ""
) -> Gain:
    """Mean of `after - before` with its percentile bootstrap interval (2.5 % to 97.5 %).

    Args:
        before: n values, one an instruction.
        after: n values, of the same instructions in the same order.
        samples: resamples of the n differences.
        salt: names the resampling noise.

    Raises:
        ValueError: the two differ in length or are empty.
    """
    import numpy

    if len(before) != len(after) or not before:
        raise ValueError(f"{len(before)} values before and {len(after)} after make no pairs")
    differences = numpy.asarray(after, dtype=float) - numpy.asarray(before, dtype=float)
    generator = numpy.random.default_rng(request_seed(salt, "paired_gain"))
    count = len(differences)
    means = numpy.concatenate(
        [
            differences[generator.integers(count, size=(min(CHUNK, samples - done), count))].mean(1)
            for done in range(0, samples, CHUNK)
        ]
    )
    low, high = numpy.quantile(means, [0.025, 0.975])
    return Gain(float(differences.mean()), float(low), float(high))
