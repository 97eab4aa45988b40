"""How varied a set of texts is: Vendi score and word pairs.

The Vendi score (arXiv 2210.02410) is the effective number of different texts: the exponential of
the entropy of the eigenvalues of K/n, where K is the n texts' similarity matrix with ones on the
diagonal. n equal texts score 1, n entirely dissimilar ones n. With cosine similarity of unit
vectors, the non-zero eigenvalues are also those of X'X/n, so the cost depends on the smaller of
texts and dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray


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
