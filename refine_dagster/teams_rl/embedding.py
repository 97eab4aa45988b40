"""Text embeddings: for the instructor's observations, the reward's archive and the Vendi score.

The default needs no model and no download: words, word pairs and character trigrams are hashed with
a sign into a fixed number of positions (feature hashing, arXiv 0902.2206), each weighted by the
square root of its count. Texts that share wording are near each other; paraphrases in other words
are not, which is its known weakness. A sentence encoder may replace it.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import rouge_tokens

Vectors = NDArray[np.float32]
_KEPT = 100_000
DIMENSIONS = 256


class Embedding(Protocol):
    """Embeds texts as vectors of length one (or zero, for a text without features).

    Attributes:
        name: of the method and its version; a trained instructor depends on it.
    """

    name: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Vectors, shape (texts, dimensions), each a function of its text alone."""


class HashedEmbedding:
    """Hashed words, word pairs and character trigrams (implements `Embedding`)."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        if dimensions < 1:
            raise ValueError(f"{dimensions} dimensions")
        self.dimensions = dimensions
        self.name = f"hashed-words-and-trigrams-1-{dimensions}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        return np.stack([_vector(text, self.dimensions) for text in texts])


@lru_cache(maxsize=_KEPT)
def _vector(text: str, dimensions: int) -> Vectors:
    vector = np.zeros(dimensions, dtype=np.float64)
    for feature, count in _features(text).items():
        code = zlib.crc32(feature.encode())
        # The lowest bit is the sign, the others give the position.
        vector[(code >> 1) % dimensions] += math.sqrt(count) * (1 if code & 1 else -1)
    length = float(np.linalg.norm(vector))
    unit: Vectors = (vector / length if length else vector).astype(np.float32)
    unit.setflags(write=False)
    return unit


def _features(text: str) -> Counter[str]:
    words = rouge_tokens(text)
    line = f" {' '.join(words)} " if words else ""
    return Counter(
        [f"w:{word}" for word in words]
        + [f"p:{first} {second}" for first, second in pairwise(words)]
        + [f"c:{line[start : start + 3]}" for start in range(len(line) - 2)]
    )
