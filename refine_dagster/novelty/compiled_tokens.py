"""Tokens numbered by compiled code: `Vocabulary`, eight bytes at a time.

Texts are joined, and every byte that is no letter or digit becomes 0 and every capital small in one
pass of C code. A token is then what stands before the next 0, found in a word of eight bytes by
arithmetic. Tokens of up to eight bytes are looked up by that word itself; a longer one is a path:
its first eight bytes have a number, and that number with the next word has another. Numbers are
those of distinct tokens whatever collides, and no token's letters are kept. Needs numba (the extra
`fast`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Ints
from refine_dagster.novelty.vocabulary import Tokens

_WORD = 8
_SMALL = b"abcdefghijklmnopqrstuvwxyz0123456789"
_TO_TOKENS = bytes(
    small if small in _SMALL else 0 for byte in range(256) for small in bytes([byte]).lower()
)
_ONES = 0x0101010101010101
_HIGHS = 0x8080808080808080
_MIX = 0x9E3779B97F4A7C15
_LOW = 0xFFFFFFFF


class CompiledVocabulary:
    """Numbers tokens in the order in which they are first seen; it has no stemmer.

    A token of more than eight bytes takes a number for each word of its beginning too.
    """

    def __init__(self) -> None:
        self._known = 1
        # Two numbers a slot: the word, and in one what goes before it and what both are numbered.
        self._slots: NDArray[np.uint64] = np.zeros(2 << 12, dtype=np.uint64)

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text; a text may have none."""
        plain = [text if text.isascii() else _in_ascii(text) for text in texts]
        data = "\n".join(plain).encode("ascii").translate(_TO_TOKENS) + bytes(_WORD)
        lengths = np.fromiter(map(len, plain), np.int64, len(plain))
        words: NDArray[np.uint64] = np.ndarray((len(data) - _WORD + 1,), "<u8", data, 0, (1,))
        flat = np.empty(len(data) // 2 + 1, dtype=np.int32)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        self._known, self._slots = _number(words, lengths, self._known, self._slots, flat, starts)
        return Tokens(flat[: starts[-1]], starts)


def _in_ascii(text: str) -> str:
    """Lower-cased, as Unicode does it, with a `?` for what is not ASCII then."""
    return text.lower().encode("ascii", "replace").decode("ascii")


@njit(cache=True, nogil=True)
def _slot_of(slots: NDArray[np.uint64], word: np.uint64, before: np.uint64) -> np.int64:
    """Where the word is that follows what is numbered `before`, or the free slot for it."""
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
def _doubled(slots: NDArray[np.uint64]) -> NDArray[np.uint64]:
    made = np.zeros(2 * len(slots), np.uint64)
    for slot in range(len(slots) >> 1):
        both = slots[2 * slot + 1]
        if both:
            place = _slot_of(made, slots[2 * slot], both >> np.uint64(32))
            made[2 * place] = slots[2 * slot]
            made[2 * place + 1] = both
    return made


@njit(cache=True, nogil=True)
def _number(
    words: NDArray[np.uint64],
    lengths: Ints,
    known: int,
    slots: NDArray[np.uint64],
    flat: NDArray[np.int32],
    starts: Ints,
) -> tuple[int, NDArray[np.uint64]]:
    """Fill `flat` and `starts`; returns the next number and the slots, which may be others.

    Args:
        words: at each byte, it and the seven after it.
        lengths: bytes of each text; a 0 stands between two.
    """
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
