"""What the novelty filter asks of a pool of texts, and the pool that compares all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from refine_dagster.novelty.rouge import Floats, Ints, rouge_l_of
from refine_dagster.novelty.vocabulary import Growing, Tokens, as_strings

RefuseAt = Literal["reaches", "exceeds"]
"""`reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold (Self-Instruct)."""


class Matches(NamedTuple):
    """Pairs of texts that reached the threshold, with their ROUGE-L F.

    `text` is an index in the batch, `other` one in the pool unless stated otherwise.
    """

    text: Ints
    other: Ints
    score: Floats

    def of(self, mask: NDArray[np.bool_]) -> Matches:
        return Matches(self.text[mask], self.other[mask], self.score[mask])


class Outcome(NamedTuple):
    """A pool's decisions on a batch: which texts joined it, and each text's best matches.

    `best` is sorted by text, then other; it has several matches of a text on ties.
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


_NONE = Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


class WholePool:
    """A pool without an index (implements `Pool`): finds the nearest text of kept texts too.

    No bound spares a kept text the comparison with the whole pool: one bit-parallel LCS a pair.
    """

    def __init__(self, threshold: float, refuse_at: RefuseAt) -> None:
        self._threshold = threshold
        self._refuse_at = refuse_at
        self._strings: list[Sequence[int] | str] = []
        self._lengths = Growing(np.int64)

    def add(self, tokens: Tokens) -> None:
        self._strings += as_strings(tokens)
        self._lengths.extend(tokens.lengths)

    def offer(self, tokens: Tokens) -> Outcome:
        strings, lengths = as_strings(tokens), tokens.lengths
        kept = np.ones(len(strings), dtype=bool)
        matches = [_NONE]
        for text, string in enumerate(strings):
            best = self._nearest(text, string)
            if len(best.score):
                score = float(best.score[0])
                at_threshold = self._refuse_at == "reaches" and score == self._threshold
                kept[text] = not (score > self._threshold or at_threshold)
                matches.append(best)
            if kept[text]:
                self._strings.append(string)
                self._lengths.extend(lengths[text : text + 1])
        return Outcome(kept, Matches(*map(np.concatenate, zip(*matches, strict=True))))

    def _nearest(self, text: int, string: Sequence[int] | str) -> Matches:
        if not self._strings or not string:
            return _NONE
        lcs = cdist([string], self._strings, scorer=LCSseq.similarity, dtype=np.uint32)[0]
        sharing = np.flatnonzero(lcs)
        if not len(sharing):
            return _NONE
        score = rouge_l_of(lcs[sharing], self._lengths.view[sharing], len(string))
        best = score == score.max()
        others = sharing[best]
        return Matches(np.full(len(others), text), others, score[best])
