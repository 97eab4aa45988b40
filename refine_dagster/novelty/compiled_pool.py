"""The compiled tier of the filter: its pool and its vocabulary. Needs numba (the extra `fast`).

`CompiledVocabulary` numbers tokens eight bytes at a time. Texts are joined, and one pass of C code
lower-cases them and turns every byte that is no letter or digit into 0, which ends a token. A token
of up to eight bytes is looked up by that word. A longer one is a path: its first eight bytes have a
number, and that number with the next word has another. Hash collisions never merge tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.language import Reading
from refine_dagster.novelty.compiled_walk import (
    SHARED_LISTS,
    UNSEEN_BELOW,
    Int32s,
    Limits,
    Lists,
    Scratch,
    Texts,
    UInt64s,
    count_elements,
    decide,
    post_all,
)
from refine_dagster.novelty.pool import Matches, Outcome, RefuseAt, best_of
from refine_dagster.novelty.rouge import Bounds, Ints
from refine_dagster.novelty.tokenizers import encoding_reader
from refine_dagster.novelty.vocabulary import Growing, Tokens

# The index is rebuilt when the pool has grown by this many times its size.
_RENEWED_AFTER = 2
_WORDS = 2
_SLACK_SHIFT = 8


class CompiledPool:
    """A pool searched text by text in compiled code (implements `Pool`)."""

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
        self._postings: UInt64s = np.zeros(1 << 10, dtype=np.uint64)
        self._used = 1
        self._given = 0
        self._renew_at = 0
        self._make_lists(SHARED_LISTS)
        self._rank: Int32s = np.zeros(0, dtype=np.int32)

    def add(self, tokens: Tokens) -> None:
        self._decide(tokens, ask=False)

    def offer(self, tokens: Tokens) -> Outcome:
        return self._decide(tokens, ask=True)

    def _decide(self, tokens: Tokens, *, ask: bool) -> Outcome:
        texts = len(tokens.starts) - 1
        self._make_room(tokens, texts)
        scratch = Scratch(self._occurrences, self._rows, self._met.room, self._near.room)
        count_elements(tokens.flat, tokens.starts, self._counts, self._occurrences)
        pool = len(self._ends) - 1
        least, widest, shortest = self._bounds.least, self._bounds.widest, self._bounds.shortest
        limits = Limits(least, self._slack, widest, shortest, self._threshold, self._reaches)
        lists = Lists(self._heads, self._rank)
        if pool >= self._renew_at:
            self._renew_at = (1 + _RENEWED_AFTER) * pool + texts
            lists = self._renewed(limits, scratch)
        store = Texts(self._tokens.room, self._ends.room, self._bits.room)
        kept = np.ones(texts, dtype=np.bool_)
        self._postings, self._used, pool, *matches = decide(
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
        self._ends.set_length(pool + 1)
        self._bits.set_length(_WORDS * pool)
        self._met.set_length(pool)
        self._tokens.set_length(int(self._ends.view[-1]))
        return Outcome(kept, best_of(Matches(*matches)))

    def _make_lists(self, lists: int) -> None:
        """Allocate counts, heads and scratch for `lists` lists, all zeros."""
        self._counts: Ints = np.zeros(lists, dtype=np.int64)
        self._heads: UInt64s = np.zeros(2 * lists, dtype=np.uint64)
        self._occurrences: Int32s = np.zeros(lists, dtype=np.int32)
        self._rows: Int32s = np.zeros(lists, dtype=np.int32)

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
        """Order the elements by their counts so far, and post the pool again in that order."""
        lists = len(self._counts)
        self._rank = np.empty(lists, dtype=np.int32)
        self._rank[np.argsort(self._counts, kind="stable")] = np.arange(
            UNSEEN_BELOW, UNSEEN_BELOW + lists, dtype=np.int32
        )
        self._heads[:] = 0
        renewed = Lists(self._heads, self._rank)
        self._postings, self._used = post_all(
            self._tokens.view, self._ends.view, renewed, self._postings, limits, scratch.occurrences
        )
        return renewed


def _slack(bounds: Bounds) -> NDArray[Any]:
    """At m+n, how many elements may be unshared, at least (m+n) / 256.

    That minimum turns the bound off where m or n is more than a posting can hold: it is then 64.
    """
    sums = np.arange(len(bounds.least))
    return np.maximum(sums - 2 * bounds.least, sums >> _SLACK_SHIFT)


_WORD = 8
_SMALL = b"abcdefghijklmnopqrstuvwxyz0123456789"
_TO_TOKENS = bytes(
    small if small in _SMALL or small > 127 else 0
    for byte in range(256)
    for small in bytes([byte]).lower()
)
_ONES = 0x0101010101010101
_HIGHS = 0x8080808080808080
_MIX = 0x9E3779B97F4A7C15
_LOW = 0xFFFFFFFF


class CompiledVocabulary:
    """Encodes without a stemmer (implements `Encoder`)."""

    def __init__(self, reading: Reading = "rouge_score") -> None:
        self._read = encoding_reader(reading)
        self._known = 1
        # Two numbers a slot: the word; and the number of the path before it (high half) with the
        # number of both (low half).
        self._slots: UInt64s = np.zeros(2 << 12, dtype=np.uint64)

    def encode(self, texts: Sequence[str]) -> Tokens:
        plain = [text if text.isascii() else self._read(text) for text in texts]
        data = "\n".join(plain).encode("latin-1").translate(_TO_TOKENS) + bytes(_WORD)
        lengths = np.fromiter(map(len, plain), np.int64, len(plain))
        words: UInt64s = np.ndarray((len(data) - _WORD + 1,), "<u8", data, 0, (1,))
        flat = np.empty(len(data) // 2 + 1, dtype=np.int32)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        self._known, self._slots = _number(words, lengths, self._known, self._slots, flat, starts)
        return Tokens(flat[: starts[-1]], starts)


@njit(cache=True, nogil=True)
def _slot_of(slots: UInt64s, word: np.uint64, before: np.uint64) -> np.int64:
    """The slot of `word` after the path numbered `before`, or the free slot for it."""
    mixed = (word ^ (before * np.uint64(_MIX))) * np.uint64(_MIX)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(_MIX)
    mask = (len(slots) >> 1) - 1
    slot = np.int64(mixed >> np.uint64(32)) & mask
    while True:
        both = slots[2 * slot + 1]
        if both == 0 or (slots[2 * slot] == word and both >> np.uint64(32) == before):
            return slot
        slot = (slot + 1) & mask


@njit(cache=True, nogil=True)
def _doubled(slots: UInt64s) -> UInt64s:
    doubled = np.zeros(2 * len(slots), np.uint64)
    for slot in range(len(slots) >> 1):
        both = slots[2 * slot + 1]
        if both:
            free = _slot_of(doubled, slots[2 * slot], both >> np.uint64(32))
            doubled[2 * free] = slots[2 * slot]
            doubled[2 * free + 1] = both
    return doubled


@njit(cache=True, nogil=True)
def _number(
    words: UInt64s, lengths: Ints, known: int, slots: UInt64s, flat: Int32s, starts: Ints
) -> tuple[int, UInt64s]:
    """Fill `flat` and `starts`; `words` has at each byte that byte and the seven after it."""
    tokens = 0
    at = 0
    for text in range(len(lengths)):
        end = at + lengths[text]
        while at < end:
            before = np.uint64(0)
            word = words[at]
            while True:
                # The lowest bit is the high bit of the first byte that is 0.
                zeros = (word - np.uint64(_ONES)) & ~word & np.uint64(_HIGHS)
                if zeros:
                    stop = zeros & (~zeros + np.uint64(1))
                    word &= (stop >> np.uint64(7)) - np.uint64(1)
                    if word == 0:
                        at += 1
                        break
                if 4 * known > len(slots):
                    slots = _doubled(slots)
                slot = _slot_of(slots, word, before)
                both = slots[2 * slot + 1]
                if both == 0:
                    both = (before << np.uint64(32)) | np.uint64(known)
                    slots[2 * slot] = word
                    slots[2 * slot + 1] = both
                    known += 1
                before = both & np.uint64(_LOW)
                if zeros:
                    at += 1
                    while stop > np.uint64(0x80):
                        stop >>= np.uint64(8)
                        at += 1
                    break
                at += 8
                word = words[at]
            if before:
                flat[tokens] = before
                tokens += 1
        at = end + 1
        starts[text + 1] = tokens
    return known, slots
