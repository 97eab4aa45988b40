"""ROUGE-L F as `rouge_score` rounds it, and the integer bounds that follow from a threshold.

With texts of m and n tokens and a longest common subsequence of L, `rouge_score` computes p = L/n,
r = L/m, F = 2pr/(p+r) in exactly this order of operations. A true tie at 0.7 gives 0.7 or a float
next to it, depending on m and n, and dozens of real instructions are such ties. So an algebraically
equal form will not do.

For pruning an integer is enough: F >= t implies L >= t(m+n)/2 up to a relative 1e-9. A pair that
passes the bounds is decided by the float.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
_SLACK = 1 - 1e-9
_TOKEN = re.compile(r"[a-z0-9]+")


def rouge_tokens(text: str) -> list[str]:
    """The tokens that `rouge_score` compares, without a stemmer.

    >>> rouge_tokens("It's 5 p.m.")
    ['it', 's', '5', 'p', 'm']
    """
    return _TOKEN.findall(text.lower())


def rouge_l(lcs: int, length: int, other: int) -> float:
    """ROUGE-L F of two texts by their LCS and token counts; 0 where nothing is shared."""
    if length == 0 or other == 0 or lcs == 0:
        return 0.0
    precision = lcs / other
    recall = lcs / length
    return 2 * precision * recall / (precision + recall)


def rouge_l_of(lcs: Ints, length: Ints, other: Ints | int) -> Floats:
    """`rouge_l` of arrays of pairs; every LCS is at least 1."""
    precision = lcs / other
    recall = lcs / length
    return np.asarray(2 * precision * recall / (precision + recall), dtype=np.float64)


class Bounds:
    """What texts must share to reach a threshold, tabulated up to a length.

    Attributes:
        least: at m+n, a lower bound of the LCS of texts of m and n tokens whose F reaches the
            threshold.
        widest: at d, the largest m+n whose `least` is at most d.
        shortest: at m, the least length of a text that can reach the threshold with m tokens.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._longest = 0
        self.cover(64)

    def cover(self, longest: int) -> None:
        """Extend the tables to texts of `longest` tokens."""
        if longest <= self._longest and self._longest:
            return
        self._longest = max(longest, 2 * self._longest)
        sums = np.arange(int((self._longest + 2) * 2 / self._threshold) + 4)
        needed = np.ceil(sums * (self._threshold / 2 * _SLACK)).astype(np.int64)
        self.least: Ints = np.maximum(needed, 1)
        lengths = np.arange(self._longest + 2)
        self.widest: Ints = np.searchsorted(self.least, lengths, side="right") - 1
        self.shortest: Ints = np.array([self._shortest(int(m)) for m in lengths], dtype=np.int64)

    def _shortest(self, length: int) -> int:
        low = 1
        high = max(length, 1)
        while low < high:
            middle = (low + high) // 2
            if self.least[length + middle] <= middle:
                high = middle
            else:
                low = middle + 1
        return low
