"""Seeds by name: all noise comes from the names of what it is for, never from a shared stream."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

from refine_dagster.hashing import canonical_json

# Seeds are below this number.
SEED_RANGE = 2**63


def request_seed(*parts: str | int) -> int:
    """A 63-bit seed drawn from a name: `request_seed(run_seed, "propose", round, request)`."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


@contextmanager
def restored_generators(*, cards: bool = True) -> Iterator[None]:
    """Put back the states of the global generators of Python, numpy and torch at the end.

    Args:
        cards: those of the cards as well, which starts CUDA in this process.
    """
    import numpy
    import torch

    states = random.getstate(), numpy.random.get_state()
    try:
        with torch.random.fork_rng(None if cards else []):
            yield
    finally:
        random.setstate(states[0])
        numpy.random.set_state(states[1])
