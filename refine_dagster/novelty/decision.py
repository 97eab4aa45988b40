"""What the novelty filter says of one text, and the words in which it is asked.

Pairs that reached the threshold, and what a pool says of a batch.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Floats, Ints
from refine_dagster.novelty.vocabulary import Tokens

RefuseAt = Literal["reaches", "exceeds"]
"""`reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold (Self-Instruct)."""

NearestOf = Literal["refused", "all"]
"""Of which texts the nearest is sought: of the refused ones only, or of the kept ones too."""

Key = int | str
"""What texts go by: their position in everything that the filter was given, or a caller's id."""


class Decision(NamedTuple):
    """What the filter said of one text.

    Attributes:
        kept: whether the text joined the pool.
        score: its highest ROUGE-L F with the pool before it, 0 to 1. None where the text is kept
            and the filter looks for the nearest of refused texts only: the score is then known to
            be below the threshold, and no more.
        nearest: key of the pool text with that score, the lowest on ties; None where score is None
            or 0.
    """

    kept: bool
    score: float | None
    nearest: Key | None


class Matches(NamedTuple):
    """Pairs of a text of the batch and another.

    Attributes:
        text: place in the batch.
        place: place of the other, in the pool unless said otherwise.
        score: ROUGE-L F.
    """

    text: Ints
    place: Ints
    score: Floats

    def of(self, chosen: NDArray[np.bool_]) -> Matches:
        """The chosen pairs."""
        return Matches(self.text[chosen], self.place[chosen], self.score[chosen])


class Outcome(NamedTuple):
    """What a pool says of a batch.

    Attributes:
        kept: for each text, whether it joined the pool.
        best: for each text with a match its best, several where they tie; sorted by text, place.
    """

    kept: NDArray[np.bool_]
    best: Matches


class Pool(Protocol):
    """Texts to which others are compared; places count from 0 in the order of joining."""

    def add(self, tokens: Tokens) -> None:
        """Put texts into the pool without asking."""

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; the kept ones join the pool."""


def best_of(*several: Matches) -> Matches:
    """For each text its matches of the highest score, sorted by text, then place."""
    text, place, score = (np.concatenate(column) for column in zip(*several, strict=True))
    order = np.lexsort((place, text))
    text, place, score = text[order], place[order], score[order]
    if len(text):
        firsts = np.flatnonzero(np.diff(text, prepend=-1))
        tops = np.maximum.reduceat(score, firsts)
        best = score == np.repeat(tops, np.diff(firsts, append=len(text)))
        text, place, score = text[best], place[best], score[best]
    return Matches(text, place, score)
