"""Tokens numbered by compiled code: `Vocabulary`, byte by byte.

One pass over the joined, lower-cased texts: bytes of a token are hashed as they go by, and the
token is looked up in a hash table with open addressing that compares all its bytes, so that numbers
are those of distinct tokens whatever collides. Needs numba (the extra `fast`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.novelty.growing import Growing
from refine_dagster.novelty.rouge import Ints
from refine_dagster.novelty.vocabulary import Tokens, joined

_BETWEEN = ord("A")
_KIND: NDArray[np.uint8] = np.zeros(256, dtype=np.uint8)
_KIND[list(b"abcdefghijklmnopqrstuvwxyz0123456789")] = 1
_KIND[_BETWEEN] = 2


class CompiledVocabulary:
    """Numbers tokens in the order in which they are first seen; it has no stemmer."""

    def __init__(self) -> None:
        self._letters = Growing(np.uint8)
        self._ends = Growing(np.int64)
        self._hashes = Growing(np.uint64)
        # Number 0 is nobody's: an empty slot.
        self._ends.extend(np.zeros(1, dtype=np.int64))
        self._hashes.extend(np.zeros(1, dtype=np.uint64))
        self._slots: NDArray[np.int32] = np.zeros(1 << 12, dtype=np.int32)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text; a text may have none."""
        data = np.frombuffer(joined(texts), dtype=np.uint8)
        most = len(data) // 2 + 1
        known, letters = len(self._ends), len(self._letters)
        self._letters.reserve(letters + len(data))
        self._ends.reserve(known + most)
        self._hashes.reserve(known + most)
        if 2 * (known + most) > len(self._slots):
            size = 1 << (4 * (known + most)).bit_length()
            self._slots = _slots(self._hashes.view, size)
        flat = np.empty(most, dtype=np.int32)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        tokens, known = _number(
            data,
            self._letters.room,
            self._ends.room,
            self._hashes.room,
            known,
            self._slots,
            flat,
            starts,
        )
        self._ends.count_in(known)
        self._hashes.count_in(known)
        self._letters.count_in(int(self._ends.view[-1]))
        return Tokens(flat[:tokens], starts)


@njit(cache=True, nogil=True)
def _slots(hashes: NDArray[np.uint64], size: int) -> NDArray[np.int32]:
    """A hash table of `size`, a power of two, that holds the numbers of tokens from 1."""
    slots = np.zeros(size, np.int32)
    mask = np.uint64(size - 1)
    for number in range(1, len(hashes)):
        slot = hashes[number] & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = number
    return slots


@njit(cache=True, nogil=True)
def _number(
    data: NDArray[np.uint8],
    letters: NDArray[np.uint8],
    ends: Ints,
    hashes: NDArray[np.uint64],
    known: int,
    slots: NDArray[np.int32],
    flat: NDArray[np.int32],
    starts: Ints,
) -> tuple[int, int]:
    """Fill `flat` and `starts`; returns how many tokens there are, and numbers in use."""
    mask = np.uint64(len(slots) - 1)
    tokens = 0
    text = 0
    at = 0
    size = len(data)
    while at < size:
        kind = _KIND[data[at]]
        if kind != 1:
            if kind == 2:
                text += 1
                starts[text] = tokens
            at += 1
            continue
        begin = at
        hashed = np.uint64(14695981039346656037)
        while at < size and _KIND[data[at]] == 1:
            hashed = (hashed ^ np.uint64(data[at])) * np.uint64(1099511628211)
            at += 1
        hashed ^= hashed >> np.uint64(29)
        slot = hashed & mask
        while True:
            number = slots[slot]
            if number == 0:
                number = known
                slots[slot] = number
                hashes[number] = hashed
                end = ends[number - 1]
                for place in range(at - begin):
                    letters[end + place] = data[begin + place]
                ends[number] = end + at - begin
                known += 1
                break
            if hashes[number] == hashed and ends[number] - ends[number - 1] == at - begin:
                end = ends[number - 1]
                same = True
                for place in range(at - begin):
                    if letters[end + place] != data[begin + place]:
                        same = False
                        break
                if same:
                    break
            slot = (slot + np.uint64(1)) & mask
        flat[tokens] = number
        tokens += 1
    if len(starts) > 1:
        starts[-1] = tokens
    return tokens, known
