"""Requests made of a few words, of very different lengths, for the tests of both backends."""

from __future__ import annotations

import random

from refine_dagster.generation.request import Request, Sampling

WORDS = ("cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp")


def word_requests(count: int, sampling: Sampling) -> list[Request]:
    """Requests whose prompts have from about 8 to 120 tokens."""
    rng = random.Random(11)
    return [
        Request(
            "propose",
            f"Instruction: {' '.join(rng.choices(WORDS, k=rng.randint(1, 50)))}\nInput:",
            sampling,
            rng.getrandbits(63),
        )
        for _ in range(count)
    ]
