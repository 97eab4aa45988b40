"""How varied a set of texts is: embeddings, Vendi score and word pairs.

The default embedding needs no model and no download: words, word pairs and character trigrams are
hashed with a sign into a fixed number of positions (feature hashing, arXiv 0902.2206), each
weighted by the square root of its count. Texts that share wording are near each other; paraphrases
in other words are not, which is its known weakness. A sentence encoder may replace it.

The Vendi score (arXiv 2210.02410) is the effective number of different texts: the exponential of
the entropy of the eigenvalues of K/n, where K is the n texts' similarity matrix with ones on the
diagonal. n equal texts score 1, n entirely dissimilar ones n. With cosine similarity of unit
vectors, the non-zero eigenvalues are also those of X'X/n, so the cost depends on the smaller of
texts and dimensions.
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

from refine_dagster.novelty.tokenizers import unicode_tokens

Vectors = NDArray[np.float32]
DIMENSIONS = 256
_CACHED = 100_000


def vendi_score(vectors: NDArray[np.floating]) -> float:
    """The Vendi score of texts by their unit vectors, shape (texts, dimensions); 0 without texts.

    Raises:
        ValueError: a vector is not of length one (to 1e-3).
    """
    count = len(vectors)
    if count == 0:
        return 0.0
    rows = np.asarray(vectors, dtype=np.float64)
    if np.abs(np.linalg.norm(rows, axis=1) - 1).max() > 1e-3:
        raise ValueError("the Vendi score takes vectors of length one")
    kernel = rows @ rows.T if count <= rows.shape[1] else rows.T @ rows
    return vendi_of_kernel(kernel / count)


def vendi_of_kernel(kernel: NDArray[np.floating]) -> float:
    """exp of the entropy of a symmetric matrix's eigenvalues, which sum to 1.

    >>> round(vendi_of_kernel(np.eye(4) / 4), 6)
    4.0
    """
    values = np.linalg.eigvalsh(np.asarray(kernel, dtype=np.float64))
    # Eigenvalues of a rank-deficient kernel come out as rounding noise of either sign.
    values = values[values > 1e-12]
    values = values / values.sum()
    return float(np.exp(-(values * np.log(values)).sum()))


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Share of different pairs of neighbouring words among all pairs; 0 where there is none.

    >>> distinct_bigrams(["a b c", "a b d"])
    0.75
    """
    pairs = [pair for text in texts for pair in pairwise(text.split())]
    return len(set(pairs)) / len(pairs) if pairs else 0.0


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
    """Hashed words, word pairs and trigrams (implements `Embedding`)."""

    def __init__(self, dimensions: int = DIMENSIONS) -> None:
        if dimensions < 1:
            raise ValueError(f"{dimensions} dimensions")
        self.dimensions = dimensions
        self.name = f"hashed-words-and-trigrams-1-{dimensions}"

    def embed(self, texts: Sequence[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        return np.stack([_vector(text, self.dimensions) for text in texts])


@lru_cache(maxsize=_CACHED)
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
    words = unicode_tokens(text)
    line = f" {' '.join(words)} " if words else ""
    return Counter(
        [f"w:{word}" for word in words]
        + [f"p:{first} {second}" for first, second in pairwise(words)]
        + [f"c:{line[start : start + 3]}" for start in range(len(line) - 2)]
    )
