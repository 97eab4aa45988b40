"""The pool as an index: finds every text that reaches the threshold and compares few others.

docs/novelty_filter.md explains why it is exact. A batch is joined with the pool, then the texts
without a match there with each other; a pass in order accepts each that has no *accepted* earlier
match. A refused text's best match is taken among the pool and the accepted texts before it, so that
the result does not depend on batches.

A text is a set of elements (t, k), the k-th occurrence of token t, ordered rarest first. Of texts
of m and n tokens that must share d = least[m+n] elements, let the first shared one be at positions
i and j. Then m-i >= least[m+n] and n-j >= least[m+n]. The first bounds n from above by the probing
element alone, the second m by the posting alone: `n <= widest[m-i] - m`, `m <= widest[n-j] - n`.
Elements whose own bound is below the shortest possible match are never looked up; the others are
the text's prefix. Postings are sorted by element, then by n, so that the first bound and the
shortest match give a range, and only the second bound is tested.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from refine_dagster.novelty.pool import Matches, Outcome, RefuseAt, best_of
from refine_dagster.novelty.rouge import Bounds, Ints, rouge_l_of
from refine_dagster.novelty.vocabulary import Growing, Tokens, as_strings

_LOW = 0xFFFFFFFF
_SEEN_FROM = 1 << 30
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Repeats:
    """Numbers elements: 2t for the first occurrence of token t, odd numbers for later ones."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def elements(self, tokens: Tokens) -> Ints:
        """Element numbers of several texts, concatenated like the tokens; sorted by token."""
        keys = np.repeat(np.arange(len(tokens.starts) - 1) << 32, tokens.lengths) | tokens.flat
        keys.sort()
        elements: Ints = (keys & _LOW) << 1
        repeated = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(repeated):
            return elements
        # Consecutive positions belong to one run, which begins at the second occurrence.
        first = np.ones(len(repeated), dtype=bool)
        first[1:] = (repeated[1:] != repeated[:-1] + 1) | (
            keys[repeated[1:]] != keys[repeated[:-1]]
        )
        starts = np.maximum.accumulate(np.where(first, repeated, 0))
        names = ((repeated - starts + 1) << 32) | (keys[repeated] & _LOW)
        numbers = self._numbers
        elements[repeated] = [
            2 * numbers.setdefault(name, len(numbers)) + 1 for name in names.tolist()
        ]
        return elements


class Order:
    """A total order of elements, rarest first; any total order is exact.

    It is renewed now and then; between renewals, new elements come before all others.
    """

    def __init__(self) -> None:
        self._texts = Growing(np.int32)
        self._ranks: NDArray[np.int32] = np.zeros(0, dtype=np.int32)

    def count(self, elements: Ints) -> None:
        if not len(elements):
            return
        missing = int(elements.max()) + 1 - len(self._texts)
        if missing > 0:
            self._texts.extend(np.zeros(missing, dtype=np.int32))
        np.add.at(self._texts.view, elements, 1)

    def renew(self) -> None:
        """Order by the counts so far; ranks from before are no longer valid."""
        texts = self._texts.view
        self._ranks = np.empty(len(texts), dtype=np.int32)
        ranks = np.arange(_SEEN_FROM, _SEEN_FROM + len(texts), dtype=np.int32)
        self._ranks[np.argsort(texts, kind="stable")] = ranks

    def ranks(self, elements: Ints) -> Ints:
        """Ranks of elements; different elements have different ranks."""
        known = elements < len(self._ranks)
        ranks: Ints = _SEEN_FROM - 1 - elements
        ranks[known] = self._ranks[elements[known]]
        return ranks


class Sets(NamedTuple):
    """Several texts as sets of ranked elements."""

    ranks: Ints  # int64, concatenated, ascending within a text
    starts: Ints  # int64, one more than texts
    lengths: Ints  # int64, elements of each text, as many as its tokens
    # [texts, 2]: an element flips one of 128 bits; texts differ in no more bits than elements.
    signatures: NDArray[np.uint64]


def ranked(elements: Ints, starts: Ints, order: Order) -> Sets:
    """Elements of several texts, sorted rarest first within each."""
    lengths = np.diff(starts)
    keys = np.repeat(np.arange(len(lengths)) << 32, lengths) | order.ranks(elements)
    keys.sort()
    return Sets(keys & _LOW, starts, lengths, signatures(elements, starts))


def signatures(elements: Ints, starts: Ints) -> NDArray[np.uint64]:
    """128 parities of each text's elements."""
    parities: NDArray[Any] = np.zeros((len(starts) - 1, 2), dtype=np.uint64)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        position = (elements.astype(np.uint64) * _MIX) >> np.uint64(57)
        word = (position >> np.uint64(6)).astype(np.int64)
        bits = np.zeros((len(elements), 2), dtype=np.uint64)
        bits[np.arange(len(elements)), word] = np.uint64(1) << (position & np.uint64(63))
        parities[filled] = np.bitwise_xor.reduceat(bits, starts[filled], axis=0)
    return parities


# Lengths share a 64-bit key with ranks, which are below 2 ** 32.
_LENGTH_BITS = 31
# Pairs tested at a time: bounds memory.
_PAIRS = 1 << 18
_MERGE_BELOW = 3


class Prefixes(NamedTuple):
    """The elements of several texts by which matches are found."""

    keys: Ints  # int64, rank and own length
    text: NDArray[np.int32]
    length: NDArray[np.int32]  # m
    # widest[m-i] - m: the longest match whose first shared element this may be.
    reach: NDArray[np.int32]

    def of(self, chosen: NDArray[np.bool_] | Ints) -> Prefixes:
        """The entries chosen by a mask or by indices."""
        return Prefixes._make(column[chosen] for column in self)

    def sorted(self) -> Prefixes:
        return self.of(np.argsort(self.keys, kind="stable"))


def prefixes(sets: Sets, bounds: Bounds) -> Prefixes:
    text = np.repeat(np.arange(len(sets.lengths)), sets.lengths)
    length = sets.lengths[text]
    left = sets.starts[1:][text] - np.arange(len(text))
    reach = bounds.widest[left] - length
    used = reach >= bounds.shortest[length]
    length = length[used]
    return Prefixes(
        (sets.ranks[used] << _LENGTH_BITS) | length,
        text[used].astype(np.int32),
        length.astype(np.int32),
        reach[used].astype(np.int32),
    )


class Postings:
    """Prefixes of the texts of a pool, to be looked up by element and length.

    New ones become a segment, and segments are merged while the last is not much smaller than the
    one before, as in a log-structured merge tree: so small batches and large ones both cost little.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._segments: list[Prefixes] = []

    def add(self, added: Prefixes) -> None:
        """Add prefixes, in any order."""
        if not len(added.keys):
            return
        segments = self._segments
        segments.append(added.sorted())
        while len(segments) > 1 and len(segments[-2].keys) < _MERGE_BELOW * len(segments[-1].keys):
            last, before = segments.pop(), segments.pop()
            both = Prefixes._make(map(np.concatenate, zip(before, last, strict=True)))
            segments.append(both.sorted())

    def meetings(self, probes: Prefixes) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Pairs (probing text, text of the pool) that pass both bounds, some more than once."""
        rank = probes.keys & ~((1 << _LENGTH_BITS) - 1)
        least = rank | self._bounds.shortest[probes.length]
        most = rank | probes.reach
        for segment in self._segments:
            low = np.searchsorted(segment.keys, least)
            counts = np.searchsorted(segment.keys, most, side="right") - low
            ends = np.cumsum(counts)
            begin = 0
            while begin < len(ends):
                done = int(ends[begin - 1]) if begin else 0
                end = max(int(np.searchsorted(ends, done + _PAIRS, side="right")), begin + 1)
                yield _passing(segment, probes, slice(begin, end), low, counts)
                begin = end


def _passing(
    segment: Prefixes, probes: Prefixes, part: slice, low: Ints, counts: Ints
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    count = counts[part]
    offsets = np.cumsum(count) - count
    entries = np.repeat(low[part] - offsets, count)
    entries += np.arange(len(entries))
    fits = segment.reach[entries] >= np.repeat(probes.length[part], count)
    return np.repeat(probes.text[part], count)[fits], segment.text[entries[fits]]


class _Batch(NamedTuple):
    sets: Sets
    elements: Ints
    strings: list[Sequence[int] | str]


class PrefixJoin:
    """A pool with an index that is joined with batches (implements `Pool`)."""

    def __init__(self, threshold: float, refuse_at: RefuseAt) -> None:
        self._threshold = threshold
        self._refuse_at = refuse_at
        self._bounds = Bounds(threshold)
        self._repeats = Repeats()
        self._order = Order()
        self._postings = Postings(self._bounds)
        self._strings: list[Sequence[int] | str] = []
        self._elements = Growing(np.int32)
        self._ends = Growing(np.int64)
        self._signatures = Growing(np.uint64)
        self._renew_at = 0

    def add(self, tokens: Tokens) -> None:
        batch = self._batch(tokens)
        everything = np.ones(len(batch.strings), dtype=bool)
        self._keep(batch, everything, prefixes(batch.sets, self._bounds))

    def offer(self, tokens: Tokens) -> Outcome:
        batch = self._batch(tokens)
        probes = prefixes(batch.sets, self._bounds)
        signatures = self._signatures.view.reshape(-1, 2)
        lengths = np.diff(self._ends.view, prepend=0)
        meetings = self._postings.meetings(probes)
        pool = self._verified(meetings, batch, lengths, signatures, self._strings)
        kept = np.ones(len(batch.strings), dtype=bool)
        kept[pool.text] = False
        inside = self._inside_matches(batch, probes, kept)
        for text, other in zip(inside.text.tolist(), inside.other.tolist(), strict=True):
            if kept[other]:
                kept[text] = False
        inside = inside.of(kept[inside.other])
        indices = self._keep(batch, kept, probes)
        return Outcome(kept, best_of(pool, inside._replace(other=indices[inside.other])))

    def _batch(self, tokens: Tokens) -> _Batch:
        if len(tokens.flat):
            self._bounds.cover(int(tokens.lengths.max()))
        elements = self._repeats.elements(tokens)
        self._order.count(elements)
        pool = len(self._strings)
        if pool >= self._renew_at:
            self._renew_at = 2 * (pool + len(tokens.starts) // 2)
            self._order.renew()
            self._reindex()
        sets = ranked(elements, tokens.starts, self._order)
        return _Batch(sets, elements, as_strings(tokens))

    def _reindex(self) -> None:
        self._postings = Postings(self._bounds)
        if not self._strings:
            return
        starts = np.concatenate([[0], self._ends.view])
        sets = ranked(self._elements.view.astype(np.int64), starts, self._order)
        self._postings.add(prefixes(sets, self._bounds))

    def _keep(self, batch: _Batch, kept: NDArray[np.bool_], probes: Prefixes) -> Ints:
        """Put the kept texts into the pool; returns the index there of each text of the batch."""
        indices = np.cumsum(kept) - 1 + len(self._strings)
        added = probes.of(kept[probes.text])
        self._postings.add(added._replace(text=indices[added.text].astype(np.int32)))
        lengths = batch.sets.lengths
        self._elements.extend(batch.elements[np.repeat(kept, lengths)])
        end = self._ends.view[-1] if len(self._ends) else 0
        self._ends.extend(np.cumsum(lengths[kept]) + end)
        self._signatures.extend(batch.sets.signatures[kept].ravel())
        self._strings += compress(batch.strings, kept.tolist())
        return indices

    def _inside_matches(self, batch: _Batch, probes: Prefixes, free: NDArray[np.bool_]) -> Matches:
        postings = Postings(self._bounds)
        postings.add(probes.of(free[probes.text]))
        earlier = (
            (texts[before], others[before])
            for texts, others in postings.meetings(probes)
            for before in [others < texts]
        )
        sets = batch.sets
        return self._verified(earlier, batch, sets.lengths, sets.signatures, batch.strings)

    def _verified(
        self,
        meetings: Iterable[tuple[NDArray[np.int32], NDArray[np.int32]]],
        batch: _Batch,
        lengths: Ints,
        signatures: NDArray[np.uint64],
        strings: list[Sequence[int] | str],
    ) -> Matches:
        """Matches among pairs (text of the batch, other) that pass the bounds."""
        sets = batch.sets
        pairs = []
        for texts, others in meetings:
            total = sets.lengths[texts] + lengths[others]
            differing = np.bitwise_count(sets.signatures[texts] ^ signatures[others])
            unshared = differing[:, 0].astype(np.int64) + differing[:, 1]
            close = unshared <= total - 2 * self._bounds.least[total]
            pairs.append((texts[close].astype(np.int64) << 32) | others[close])
        unique = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, dtype=np.int64)
        texts, others = unique >> 32, unique & _LOW
        lcs = cpdist(
            [batch.strings[text] for text in texts.tolist()],
            [strings[other] for other in others.tolist()],
            scorer=LCSseq.similarity,
            dtype=np.uint32,
        )
        sharing = lcs > 0
        texts, others, lcs = texts[sharing], others[sharing], lcs[sharing]
        score = rouge_l_of(lcs, lengths[others], sets.lengths[texts])
        reached = score > self._threshold
        if self._refuse_at == "reaches":
            reached |= score == self._threshold
        return Matches(texts[reached], others[reached], score[reached])
