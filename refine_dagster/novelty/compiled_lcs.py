"""LCS of two texts by bits (Hyyrö 2004), compiled: one word for 64 tokens. Needs numba."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def ones(word: np.uint64) -> np.int64:
    """Bits that are set; LLVM makes one instruction of it."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def fill_masks(
    own: NDArray[np.int32], rows: NDArray[np.int32], masks: NDArray[np.uint64], words: int
) -> None:
    """Give each token of the text a row of masks with a bit wherever it stands."""
    used = 0
    for spot in range(len(own)):
        token = own[spot]
        if rows[token] == 0:
            used += 1
            rows[token] = used
            masks[used, :words] = np.uint64(0)
        masks[rows[token], spot >> 6] |= np.uint64(1) << np.uint64(spot & 63)


@njit(cache=True, nogil=True)
def lcs_of(
    rows: NDArray[np.int32],
    masks: NDArray[np.uint64],
    state: NDArray[np.uint64],
    length: int,
    other: NDArray[np.int32],
) -> int:
    """LCS of the text whose masks these are, `length` long, with another."""
    words = (length + 63) >> 6
    for word in range(words):
        state[word] = ~np.uint64(0)
    for token in other:
        row = rows[token]
        if row:
            carry = np.uint64(0)
            for word in range(words):
                before = state[word]
                met = before & masks[row, word]
                added = before + met
                over = np.uint64(1) if added < before else np.uint64(0)
                total = added + carry
                if total < added:
                    over = np.uint64(1)
                carry = over
                state[word] = total | (before & ~met)
    found = 0
    for word in range(words):
        left = ~state[word]
        if word == words - 1 and length & 63:
            left &= (np.uint64(1) << np.uint64(length & 63)) - np.uint64(1)
        found += ones(left)
    return found
