"""The pool compared in full: the nearest of every text, however far it is.

A text below the threshold has a nearest too, and the pipeline stores it with each decision. No
bound spares it the comparison, so each text meets the whole pool: one bit-parallel LCS a pair.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from refine_dagster.novelty.decision import Matches, Outcome, RefuseAt
from refine_dagster.novelty.rouge import rouge_l_of
from refine_dagster.novelty.vocabulary import Growing, Tokens, as_strings


class WholePool:
    """A pool that reports the nearest of kept texts too.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: which side of the threshold a tie is on.
    """

    def __init__(self, threshold: float, refuse_at: RefuseAt) -> None:
        self._threshold = threshold
        self._refuse_at = refuse_at
        self._strings: list[Sequence[int] | str] = []
        self._lengths = Growing(np.int64)

    def add(self, tokens: Tokens) -> None:
        """Put texts into the pool without asking."""
        self._strings += as_strings(tokens)
        self._lengths.extend(tokens.lengths)

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; the kept ones join the pool."""
        strings, lengths = as_strings(tokens), tokens.lengths
        kept = np.ones(len(strings), dtype=bool)
        found = []
        for text, string in enumerate(strings):
            best = self._nearest(text, string)
            if len(best.score):
                score = float(best.score[0])
                at_threshold = self._refuse_at == "reaches" and score == self._threshold
                kept[text] = not (score > self._threshold or at_threshold)
                found.append(best)
            if kept[text]:
                self._strings.append(string)
                self._lengths.extend(lengths[text : text + 1])
        columns = [np.concatenate(column) for column in zip(_NONE, *found, strict=True)]
        return Outcome(kept, Matches(*columns))

    def _nearest(self, text: int, string: Sequence[int] | str) -> Matches:
        if not self._strings or not string:
            return _NONE
        lcs = cdist([string], self._strings, scorer=LCSseq.similarity, dtype=np.uint32)[0]
        some = np.flatnonzero(lcs)
        if not len(some):
            return _NONE
        score = rouge_l_of(lcs[some], self._lengths.view[some], len(string))
        best = score == score.max()
        places = some[best]
        return Matches(np.full(len(places), text), places, score[best])


_NONE = Matches(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0))
