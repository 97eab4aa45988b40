"""TODO."""

from __future__ import annotations

import hashlib

from refine_dagster.hashing import canonical_json


def request_seed(*parts: str | int) -> int:
    """A 63-bit seed drawn from a name: `request_seed(run seed, "propose", round, request)`."""
    digest = hashlib.sha256(canonical_json(list(parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
