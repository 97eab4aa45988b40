"""Texts as sets: a repeated token becomes a different element at each occurrence.

The LCS of two texts is at most what they share as multisets of tokens. With (t, k) standing for the
k-th occurrence of t, multisets become sets and their overlap the size of an intersection. Elements
are numbered: 2t for the first occurrence of token t, odd numbers for later ones as they are met.

They are ordered by how many texts have them, rarest first: two texts that share d elements share
one within the first m-d+1 and n-d+1 of them, and the rarer those are the fewer other texts meet
there. Any order is exact as long as it is one; `Order` counts texts, is renewed now and then, and
between renewals puts what it has never seen before everything it has.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.growing import Growing
from refine_dagster.novelty.rouge import Ints
from refine_dagster.novelty.vocabulary import Tokens

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
