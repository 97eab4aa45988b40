"""Seeds by name: all noise comes from the names of what it is for, never from a shared stream."""

from __future__ import annotations

import hashlib

from refine_dagster.hashing import canonical_json

# Seeds are below this number.
SEED_RANGE = 2**63


def request_seed(*parts: str | int) -> int:
    """A 63-bit seed drawn from a name: `request_seed(run_seed, "propose", round, request)`."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
