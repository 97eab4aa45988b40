"""The pool as an index: finds every text that reaches the threshold, and looks at few others.

A batch is decided in three steps that together are the sequential rule: (1) candidates are joined
with the pool, (2) those without a partner there are joined with each other, (3) a walk in order
accepts each that has no *accepted* earlier partner. A refused text's best match is sought among
the pool and the accepted texts before it, so that what is reported does not depend on batches.

Texts as sets: a repeated token becomes a different element at each occurrence.

The LCS of two texts is at most what they share as multisets of tokens. With (t, k) standing for the
k-th occurrence of t, multisets become sets and their overlap the size of an intersection. Elements
are numbered: 2t for the first occurrence of token t, odd numbers for later ones as they are met.

They are ordered by how many texts have them, rarest first: two texts that share d elements share
one within the first m-d+1 and n-d+1 of them, and the rarer those are the fewer other texts meet
there. Any order is exact as long as it is one; `Order` counts texts, is renewed now and then, and
between renewals puts what it has never seen before everything it has.

Which texts have an element among their first, and how long they are.

Of a pair m and n long that must share d = least[m+n] elements, the first shared one, at positions i
and j of the two orders, is followed by at most m-1-i and n-1-j others. So

    m-1-i + 1 >= least[m+n]   and   n-1-j + 1 >= least[m+n].

The first bounds n from above by the probing element alone, the second m by the posting alone:
`n <= widest[m-i] - m` and `m <= widest[n-j] - n`. An element whose own bound is below the shortest
partner is never looked at, and the others are the text's prefix. Postings are sorted by element,
then by n, so that the first bound and the shortest partner cut a range, and only the second is
tested.

Postings are kept in segments, like a log-structured merge tree: new ones make a segment, and
segments are merged while the last is not much smaller than the one before, so that small batches
and large ones both cost little.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from refine_dagster.novelty.decision import Matches, Outcome, RefuseAt, best_of
from refine_dagster.novelty.rouge import Bounds, Ints, rouge_l_of
from refine_dagster.novelty.vocabulary import Growing, Tokens, as_strings

_LOW = 0xFFFFFFFF
_SEEN_FROM = 1 << 30
_MIX = np.uint64(0x9E3779B97F4A7C15)


class Repeats:
    """Numbers of second and later occurrences of a token in one text."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def elements(self, tokens: Tokens) -> Ints:
        """Element numbers of several texts, end to end as the tokens are; in a text by token."""
        keys = np.repeat(np.arange(len(tokens.starts) - 1) << 32, tokens.lengths) | tokens.flat
        keys.sort()
        elements: Ints = (keys & _LOW) << 1
        places = np.flatnonzero(keys[1:] == keys[:-1]) + 1
        if not len(places):
            return elements
        # Consecutive places belong to one run: its first place is the second occurrence.
        first = np.ones(len(places), dtype=bool)
        first[1:] = (places[1:] != places[:-1] + 1) | (keys[places[1:]] != keys[places[:-1]])
        starts = np.maximum.accumulate(np.where(first, places, 0))
        occurrence = places - starts + 1
        names = (occurrence << 32) | (keys[places] & _LOW)
        numbers = self._numbers
        elements[places] = [
            2 * numbers.setdefault(name, len(numbers)) + 1 for name in names.tolist()
        ]
        return elements


class Order:
    """A total order of elements, rarest first."""

    def __init__(self) -> None:
        self._texts = Growing(np.int32)
        self._ranks: NDArray[np.int32] = np.zeros(0, dtype=np.int32)

    def count(self, elements: Ints) -> None:
        """Count texts' elements towards the next renewal."""
        if not len(elements):
            return
        missing = int(elements.max()) + 1 - len(self._texts)
        if missing > 0:
            self._texts.extend(np.zeros(missing, dtype=np.int32))
        np.add.at(self._texts.view, elements, 1)

    def renew(self) -> None:
        """Order by the counts so far; what was ordered before has to be ordered anew."""
        texts = self._texts.view
        self._ranks = np.empty(len(texts), dtype=np.int32)
        ranks = np.arange(_SEEN_FROM, _SEEN_FROM + len(texts), dtype=np.int32)
        self._ranks[np.argsort(texts, kind="stable")] = ranks

    def ranks(self, elements: Ints) -> Ints:
        """Ranks of elements, which are different for different elements."""
        known = elements < len(self._ranks)
        ranks: Ints = _SEEN_FROM - 1 - elements
        ranks[known] = self._ranks[elements[known]]
        return ranks


class Sets(NamedTuple):
    """Several texts as sets of ranked elements.

    Attributes:
        ranks: int64, end to end, ascending within a text.
        starts: int64, one more than texts.
        lengths: int64, elements of each text, which are as many as its tokens.
        signatures: uint64 [texts, 2]: each element flips one of 128 bits, so that two texts differ
            in at least as many elements as in bits.
    """

    ranks: Ints
    starts: Ints
    lengths: Ints
    signatures: NDArray[np.uint64]


def ranked(elements: Ints, starts: Ints, order: Order) -> Sets:
    """Elements of several texts, sorted rarest first within each."""
    lengths = np.diff(starts)
    keys = np.repeat(np.arange(len(lengths)) << 32, lengths) | order.ranks(elements)
    keys.sort()
    return Sets(keys & _LOW, starts, lengths, signatures(elements, starts))


def signatures(elements: Ints, starts: Ints) -> NDArray[np.uint64]:
    """128 parities of each text's elements."""
    made: NDArray[Any] = np.zeros((len(starts) - 1, 2), dtype=np.uint64)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        place = (elements.astype(np.uint64) * _MIX) >> np.uint64(57)
        bits = np.zeros((len(elements), 2), dtype=np.uint64)
        word = (place >> np.uint64(6)).astype(np.int64)
        bits[np.arange(len(elements)), word] = np.uint64(1) << (place & np.uint64(63))
        made[filled] = np.bitwise_xor.reduceat(bits, starts[filled], axis=0)
    return made


# Lengths share a 64-bit key with ranks, which are below 2 ** 32.
_LENGTH_BITS = 31
# Pairs looked at in one go: bounds memory.
_AT_ONCE = 1 << 18
_MERGE_BELOW = 3


class Prefixes(NamedTuple):
    """The elements of several texts by which partners are found.

    Attributes:
        keys: int64, rank and own length.
        text: int32, the text's place.
        length: int32, m.
        reach: int32, widest[m-i] - m: the longest partner whose first shared element this may be.
    """

    keys: Ints
    text: NDArray[np.int32]
    length: NDArray[np.int32]
    reach: NDArray[np.int32]

    def of(self, chosen: NDArray[np.bool_] | Ints) -> Prefixes:
        """The chosen entries: a mask, or places."""
        return Prefixes(
            self.keys[chosen], self.text[chosen], self.length[chosen], self.reach[chosen]
        )

    def sorted(self) -> Prefixes:
        """By key."""
        return self.of(np.argsort(self.keys, kind="stable"))


def prefixes(sets: Sets, bounds: Bounds, first_place: int = 0) -> Prefixes:
    """Prefixes of texts whose places begin at `first_place`, in the order of texts."""
    text = np.repeat(np.arange(len(sets.lengths)), sets.lengths)
    length = sets.lengths[text]
    left = sets.starts[1:][text] - np.arange(len(text))
    reach = bounds.widest[left] - length
    used = reach >= bounds.shortest[length]
    length = length[used]
    return Prefixes(
        (sets.ranks[used] << _LENGTH_BITS) | length,
        (text[used] + first_place).astype(np.int32),
        length.astype(np.int32),
        reach[used].astype(np.int32),
    )


class Postings:
    """Prefixes of the texts of a pool, findable by element and length.

    Args:
        bounds: of the threshold.
    """

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._segments: list[Prefixes] = []

    def add(self, added: Prefixes) -> None:
        """Put prefixes in, in any order."""
        if not len(added.keys):
            return
        segments = self._segments
        segments.append(added.sorted())
        while len(segments) > 1 and len(segments[-2].keys) < _MERGE_BELOW * len(segments[-1].keys):
            last, before = segments.pop(), segments.pop()
            both = Prefixes(
                *(np.concatenate(columns) for columns in zip(before, last, strict=True))
            )
            segments.append(both.sorted())

    def meetings(self, probes: Prefixes) -> Iterator[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Pairs (probing text, text of the pool) that both bounds let pass, some more than once."""
        rank = probes.keys & ~((1 << _LENGTH_BITS) - 1)
        least = rank | self._bounds.shortest[probes.length]
        most = rank | probes.reach
        for segment in self._segments:
            low = np.searchsorted(segment.keys, least)
            found = np.searchsorted(segment.keys, most, side="right") - low
            ends = np.cumsum(found)
            begin = 0
            while begin < len(ends):
                done = int(ends[begin - 1]) if begin else 0
                end = max(int(np.searchsorted(ends, done + _AT_ONCE, side="right")), begin + 1)
                yield _passing(segment, probes, slice(begin, end), low, found)
                begin = end


def _passing(
    segment: Prefixes, probes: Prefixes, part: slice, low: Ints, found: Ints
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    count = found[part]
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
    """A pool of texts that no two of a batch's kept ones reach the threshold with.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: which side of the threshold a tie is on.
    """

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
        """Put texts into the pool without asking."""
        batch = self._batch(tokens)
        first = len(self._strings)
        everything = np.ones(len(batch.strings), dtype=bool)
        self._keep(batch, everything, prefixes(batch.sets, self._bounds), first)

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; the kept ones join the pool."""
        batch = self._batch(tokens)
        probes = prefixes(batch.sets, self._bounds)
        pool = self._pool_matches(batch, probes)
        kept = np.ones(len(batch.strings), dtype=bool)
        kept[pool.text] = False
        inside = self._inside_matches(batch, probes, kept)
        _walk(inside, kept)
        inside = inside.of(kept[inside.place])
        first = len(self._strings)
        places = np.cumsum(kept) - 1 + first
        inside = Matches(inside.text, places[inside.place], inside.score)
        self._keep(batch, kept, probes, first)
        return Outcome(kept, best_of(pool, inside))

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

    def _keep(self, batch: _Batch, kept: NDArray[np.bool_], probes: Prefixes, first: int) -> None:
        added = probes.of(kept[probes.text])
        places = (np.cumsum(kept) - 1 + first).astype(np.int32)
        self._postings.add(added._replace(text=places[added.text]))
        lengths = batch.sets.lengths
        self._elements.extend(batch.elements[np.repeat(kept, lengths)])
        end = self._ends.view[-1] if len(self._ends) else 0
        self._ends.extend(np.cumsum(lengths[kept]) + end)
        self._signatures.extend(batch.sets.signatures[kept].ravel())
        self._strings += [batch.strings[place] for place in np.flatnonzero(kept).tolist()]

    def _pool_matches(self, batch: _Batch, probes: Prefixes) -> Matches:
        signatures = self._signatures.view.reshape(-1, 2)
        lengths = np.diff(self._ends.view, prepend=0)
        return self._verified(
            self._postings.meetings(probes), batch, lengths, signatures, self._strings
        )

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
        """Matches among pairs (text of the batch, other) that the bounds let pass."""
        sets = batch.sets
        pairs = []
        for texts, others in meetings:
            total = sets.lengths[texts] + lengths[others]
            differing = np.bitwise_count(sets.signatures[texts] ^ signatures[others])
            unshared = differing[:, 0].astype(np.int64) + differing[:, 1]
            close = unshared <= total - 2 * self._bounds.least[total]
            pairs.append((texts[close].astype(np.int64) << 32) | others[close])
        found = np.unique(np.concatenate(pairs)) if pairs else np.zeros(0, dtype=np.int64)
        texts, others = found >> 32, found & 0xFFFFFFFF
        lcs = cpdist(
            [batch.strings[place] for place in texts.tolist()],
            [strings[place] for place in others.tolist()],
            scorer=LCSseq.similarity,
            dtype=np.uint32,
        )
        some = lcs > 0
        texts, others, lcs = texts[some], others[some], lcs[some]
        score = rouge_l_of(lcs, lengths[others], sets.lengths[texts])
        reached = score > self._threshold
        if self._refuse_at == "reaches":
            reached |= score == self._threshold
        return Matches(texts[reached], others[reached], score[reached])


def _walk(inside: Matches, kept: NDArray[np.bool_]) -> None:
    """Refuse, in order, each text that has an accepted earlier partner in its batch."""
    for text, partner in zip(inside.text.tolist(), inside.place.tolist(), strict=True):
        if kept[partner]:
            kept[text] = False
