"""Pairs that reached the threshold, and what a pool says of a batch."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Floats, Ints
from refine_dagster.novelty.vocabulary import Tokens


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
