"""Which texts have an element among their first, and how long they are.

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

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.elements import Sets
from refine_dagster.novelty.rouge import Bounds, Ints

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
