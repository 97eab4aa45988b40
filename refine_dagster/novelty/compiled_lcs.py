"""Bit-parallel LCS of two texts, compiled: one word for 64 tokens (Hyyrö 2004)."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

UInt64s = NDArray[np.uint64]
Int32s = NDArray[np.int32]


@njit(cache=True, nogil=True)
def ones(word: np.uint64) -> np.int64:
    """Number of set bits; LLVM compiles it to one instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def fill_masks(own: Int32s, rows: Int32s, masks: UInt64s, words: int) -> None:
    """Give each token of the text a row of `masks` with the bits of its positions."""
    used = 0
    for position in range(len(own)):
        token = own[position]
        if rows[token] == 0:
            used += 1
            rows[token] = used
            masks[used, :words] = np.uint64(0)
        masks[rows[token], position >> 6] |= np.uint64(1) << np.uint64(position & 63)


@njit(cache=True, nogil=True)
def lcs_of(rows: Int32s, masks: UInt64s, state: UInt64s, length: int, other: Int32s) -> int:
    """LCS of another text and the text of `length` tokens that `masks` describe."""
    words = (length + 63) >> 6
    for word in range(words):
        state[word] = ~np.uint64(0)
    for token in other:
        row = rows[token]
        if row:
            carry = np.uint64(0)
            for word in range(words):
                before = state[word]
                matching = before & masks[row, word]
                added = before + matching
                over = np.uint64(1) if added < before else np.uint64(0)
                total = added + carry
                if total < added:
                    over = np.uint64(1)
                carry = over
                state[word] = total | (before & ~matching)
    lcs = 0
    for word in range(words):
        left = ~state[word]
        if word == words - 1 and length & 63:
            left &= (np.uint64(1) << np.uint64(length & 63)) - np.uint64(1)
        lcs += ones(left)
    return lcs
