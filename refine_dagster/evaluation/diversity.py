"""How varied a set of texts is: Vendi score, word pairs, similarity to parents.

The Vendi score (arXiv 2210.02410) is the effective number of different texts: the exponential of
the entropy of the eigenvalues of K/n, where K is the n texts' similarity matrix with ones on the
diagonal. n equal texts score 1, n entirely dissimilar ones n. With cosine similarity of unit
vectors, the non-zero eigenvalues are also those of X'X/n, so the cost depends on the smaller of
texts and dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from refine_dagster.novelty.rouge import rouge_l, rouge_tokens

Bigram = tuple[str, str]


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


def bigrams(texts: Sequence[str], words: Callable[[str], list[str]] = str.split) -> list[Bigram]:
    """All pairs of neighbouring words within a text, repeated ones too."""
    return [pair for text in texts for pair in pairwise(words(text))]


def unique_bigrams(texts: Sequence[str]) -> int:
    """How many different pairs there are; words as ROUGE-L sees them."""
    return len(set(bigrams(texts, rouge_tokens)))


def distinct_bigrams(texts: Sequence[str]) -> float:
    """Share of different pairs among all pairs; 0 where there is none.

    >>> distinct_bigrams(["a b c", "a b d"])
    0.75
    """
    pairs = bigrams(texts)
    return len(set(pairs)) / len(pairs) if pairs else 0.0


def rouge_l_to(text: str, parent: str) -> float:
    """ROUGE-L F of a text and its parent, 0 to 1, without a stemmer."""
    ours, theirs = rouge_tokens(text), rouge_tokens(parent)
    return rouge_l(LCSseq.similarity(ours, theirs), len(ours), len(theirs))
