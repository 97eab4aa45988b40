"""The pool compared in full: finds the nearest text of kept texts too.

No bound spares a kept text the comparison with the whole pool: one bit-parallel LCS a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from refine_dagster.novelty.decision import Matches, Outcome, RefuseAt
from refine_dagster.novelty.rouge import rouge_l_of
from refine_dagster.novelty.vocabulary import Growing, Tokens, as_strings

_NONE = Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))


class WholePool:
    """A pool without an index (implements `Pool`)."""

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
