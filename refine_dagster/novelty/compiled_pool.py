"""The pool as an index, one text at a time, in compiled code: what it holds between calls.

The walk itself is in `compiled_walk`. Needs numba (the extra `fast`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.compiled_walk import (
    SHARED_LISTS,
    UNSEEN_BELOW,
    Limits,
    Lists,
    Scratch,
    Texts,
    count_elements,
    decide,
    post_all,
)
from refine_dagster.novelty.decision import RefuseAt
from refine_dagster.novelty.growing import Growing
from refine_dagster.novelty.matches import Matches, Outcome, best_of
from refine_dagster.novelty.rouge import Bounds, Ints
from refine_dagster.novelty.vocabulary import Tokens

# The index is made anew when the pool has grown by this many times itself.
_RENEWED_AFTER = 2
_WORDS = 2
_SLACK_SHIFT = 8


class CompiledPool:
    """A pool of texts that no two of a batch's kept ones reach the threshold with.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: which side of the threshold a tie is on.
    """

    def __init__(self, threshold: float, refuse_at: RefuseAt) -> None:
        self._threshold = threshold
        self._reaches = refuse_at == "reaches"
        self._bounds = Bounds(threshold)
        self._slack = _slack(self._bounds)
        self._tokens = Growing(np.int32)
        self._ends = Growing(np.int64)
        self._ends.extend(np.zeros(1, dtype=np.int64))
        self._bits = Growing(np.uint64)
        self._met = Growing(np.int32)
        self._near = Growing(np.int32)
        self._postings: NDArray[np.uint64] = np.zeros(1 << 10, dtype=np.uint64)
        self._used = 1
        self._given = 0
        self._renew_at = 0
        self._make_lists(SHARED_LISTS)
        self._rank: NDArray[np.int32] = np.zeros(0, dtype=np.int32)

    def add(self, tokens: Tokens) -> None:
        """Put texts into the pool without asking."""
        self._decide(tokens, ask=False)

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; the kept ones join the pool."""
        return self._decide(tokens, ask=True)

    def _decide(self, tokens: Tokens, *, ask: bool) -> Outcome:
        texts = len(tokens.starts) - 1
        self._make_room(tokens, texts)
        scratch = Scratch(self._occurrences, self._rows, self._met.room, self._near.room)
        count_elements(tokens.flat, tokens.starts, self._counts, self._occurrences)
        pool = len(self._ends) - 1
        limits = self._limits()
        lists = Lists(self._heads, self._rank)
        if pool >= self._renew_at:
            self._renew_at = (1 + _RENEWED_AFTER) * pool + texts
            lists = self._renewed(limits, scratch)
        store = Texts(self._tokens.room, self._ends.room, self._bits.room)
        kept = np.ones(texts, dtype=np.bool_)
        self._postings, self._used, pool, text, place, score = decide(
            tokens.flat,
            tokens.starts,
            store,
            pool,
            lists,
            self._postings,
            self._used,
            limits,
            scratch,
            self._given,
            kept,
            ask,
        )
        self._given += texts
        self._ends.count_in(pool + 1)
        self._bits.count_in(_WORDS * pool)
        self._met.count_in(pool)
        self._tokens.count_in(int(self._ends.view[-1]))
        return Outcome(kept, best_of(Matches(text, place, score)))

    def _limits(self) -> Limits:
        bounds = self._bounds
        return Limits(
            bounds.least,
            self._slack,
            bounds.widest,
            bounds.shortest,
            self._threshold,
            self._reaches,
        )

    def _make_lists(self, lists: int) -> None:
        """Room for `lists` lists; scratch is all zeros between calls."""
        self._counts: Ints = np.zeros(lists, dtype=np.int64)
        self._heads: NDArray[np.uint64] = np.zeros(2 * lists, dtype=np.uint64)
        self._occurrences: NDArray[np.int32] = np.zeros(lists, dtype=np.int32)
        self._rows: NDArray[np.int32] = np.zeros(lists, dtype=np.int32)

    def _make_room(self, tokens: Tokens, texts: int) -> None:
        size = len(tokens.flat)
        if size:
            covered = len(self._bounds.least)
            self._bounds.cover(int(tokens.lengths.max()))
            if len(self._bounds.least) != covered:
                self._slack = _slack(self._bounds)
            lists = SHARED_LISTS + int(tokens.flat.max()) + 1
            if lists > len(self._counts):
                counts, heads = self._counts, self._heads
                self._make_lists(lists * 3 // 2)
                self._counts[: len(counts)] = counts
                self._heads[: len(heads)] = heads
        self._tokens.reserve(len(self._tokens) + size)
        self._ends.reserve(len(self._ends) + texts)
        self._bits.reserve(len(self._bits) + _WORDS * texts)
        self._met.reserve(len(self._met) + texts)
        self._near.reserve(len(self._met) + texts)

    def _renewed(self, limits: Limits, scratch: Scratch) -> Lists:
        """Order the elements by their counts so far, and make all postings anew by that order."""
        lists = len(self._counts)
        self._rank = np.empty(lists, dtype=np.int32)
        self._rank[np.argsort(self._counts, kind="stable")] = np.arange(
            UNSEEN_BELOW, UNSEEN_BELOW + lists, dtype=np.int32
        )
        self._heads[:] = 0
        made = Lists(self._heads, self._rank)
        self._postings, self._used = post_all(
            self._tokens.view, self._ends.view, made, self._postings, limits, scratch.occurrences
        )
        return made


def _slack(bounds: Bounds) -> NDArray[Any]:
    """At m+n, how many elements may be unshared, never below (m+n) / 256.

    That part makes the bound idle where m or n is more than a posting can hold: it is 64 or more.
    """
    sums = np.arange(len(bounds.least))
    return np.maximum(sums - 2 * bounds.least, sums >> _SLACK_SHIFT)
