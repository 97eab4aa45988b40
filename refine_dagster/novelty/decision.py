"""The novelty filter's options and decisions, and the interface of its pools."""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Floats, Ints
from refine_dagster.novelty.vocabulary import Tokens

RefuseAt = Literal["reaches", "exceeds"]
"""`reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold (Self-Instruct)."""

NearestOf = Literal["refused", "all"]
"""For which texts the nearest is found: refused texts only, or kept texts too."""

Key = int | str
"""The name of a text: its position in all that the filter was given, or the caller's id."""


class Decision(NamedTuple):
    """The filter's decision on one text.

    Attributes:
        kept: whether the text joined the pool.
        score: its highest ROUGE-L F with the pool before it, 0 to 1. None where the text is kept
            and the filter finds the nearest of refused texts only: F is then below the threshold.
        nearest: key of the pool text with that score, the lowest on ties; None where score is None
            or 0.
    """

    kept: bool
    score: float | None
    nearest: Key | None


class Matches(NamedTuple):
    """Pairs of texts that reached the threshold.

    Attributes:
        text: index in the batch.
        other: index of the other text, in the pool unless stated otherwise.
        score: ROUGE-L F.
    """

    text: Ints
    other: Ints
    score: Floats

    def of(self, mask: NDArray[np.bool_]) -> Matches:
        return Matches(self.text[mask], self.other[mask], self.score[mask])


class Outcome(NamedTuple):
    """A pool's decisions on a batch.

    Attributes:
        kept: for each text, whether it joined the pool.
        best: the best match of each text that has one, several on ties; sorted by text, other.
    """

    kept: NDArray[np.bool_]
    best: Matches


class Pool(Protocol):
    """Texts that others are compared with, indexed from 0 in the order of joining.

    Constructed from the threshold (above 0, at most 1) and `RefuseAt`.
    """

    def add(self, tokens: Tokens) -> None:
        """Put texts into the pool without a decision."""

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; kept ones join the pool."""


def best_of(*several: Matches) -> Matches:
    """Each text's matches of the highest score, sorted by text, then other."""
    text, other, score = (np.concatenate(column) for column in zip(*several, strict=True))
    order = np.lexsort((other, text))
    text, other, score = text[order], other[order], score[order]
    if len(text):
        firsts = np.flatnonzero(np.diff(text, prepend=-1))
        tops = np.maximum.reduceat(score, firsts)
        best = score == np.repeat(tops, np.diff(firsts, append=len(text)))
        text, other, score = text[best], other[best], score[best]
    return Matches(text, other, score)
