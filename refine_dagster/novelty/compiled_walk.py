"""The index walked by compiled code: the bounds of `prefix_join`, one text at a time.

Each token has a list of postings; second and later occurrences of tokens share lists by hash. A
list may thus hold postings of another element, which costs a comparison and changes no decision.
Lists are ordered by how many texts they have met, rarest first.

A posting is two numbers of 64 bits. The first holds the text's index, what its length lacks to the
longest, and its reach. The last two lie below a guard bit each: one subtraction tests both, because
a test that fails borrows its bit. The second number is the two halves of the text's 128 parities,
XORed; two texts differ in no more of its bits than in elements. A list's postings lie in blocks,
each larger than the one before. The first entry of a block is its size and the block before.
Numbers are unsigned because numba tests signed indices for being counted from the end.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Ints

UInt64s = NDArray[np.uint64]
Int32s = NDArray[np.int32]
# Number of lists shared by second and later occurrences.
SHARED_LISTS = 1 << 14
# Lists first met since the last renewal rank below all others.
UNSEEN_BELOW = 1 << 29
# Texts up to this many tokens are sorted by insertion.
_INSERTED = 48
_LOW = 0xFFFFFFFF
# The greatest length that a posting can hold; longer texts are stored with it and verified later.
_LONGEST = 0x7FFF
_GUARDS = 0x80008000
# Up to this many postings a block has four times the size of the one before, then twice.
_SMALL_BLOCK = 64


class Lists(NamedTuple):
    """For each list its last block (0: none) and that block's postings, in turn; and its rank."""

    heads: UInt64s
    rank: Int32s


class Texts(NamedTuple):
    """The pool's tokens, concatenated; the end of each text, after a 0; two words of bits each."""

    tokens: Int32s
    ends: Ints
    bits: UInt64s


class Limits(NamedTuple):
    """`Bounds`; at m+n how many elements may be unshared (`slack`); the rule."""

    least: Ints
    slack: Ints
    widest: Ints
    shortest: Ints
    threshold: float
    reaches: bool


class Scratch(NamedTuple):
    """By token, all zeros between texts: `occurrences` and `rows` of masks.

    By text of the pool: `met`, the mark of the last text that met it, and `near`, free space.
    """

    occurrences: Int32s
    rows: Int32s
    met: Int32s
    near: Int32s


@njit(cache=True, nogil=True)
def _ones(word: np.uint64) -> np.int64:
    """Number of set bits; LLVM compiles it to one instruction."""
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    twos = np.uint64(0x3333333333333333)
    word = (word & twos) + ((word >> np.uint64(2)) & twos)
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _fill_masks(own: Int32s, rows: Int32s, masks: UInt64s, words: int) -> None:
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
def _lcs_of(rows: Int32s, masks: UInt64s, state: UInt64s, length: int, other: Int32s) -> int:
    """LCS of another text and the text of `length` tokens that `masks` describe.

    Bit-parallel: one word for 64 tokens (Hyyrö 2004).
    """
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
        lcs += _ones(left)
    return lcs


@njit(cache=True, nogil=True)
def _mixed(token: int, occurrence: int) -> np.uint64:
    value = (np.uint64(occurrence) << np.uint64(32)) | np.uint64(token)
    value *= np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@njit(cache=True, nogil=True)
def _list_of(token: int, occurrence: int) -> np.int64:
    if occurrence > 1:
        return np.int64(_mixed(token, occurrence) & np.uint64(SHARED_LISTS - 1))
    return np.int64(SHARED_LISTS + token)


@njit(cache=True, nogil=True)
def count_elements(flat: Int32s, starts: Ints, counts: Ints, occurrences: Int32s) -> None:
    """Add the elements of texts to the counts of their lists."""
    for text in range(len(starts) - 1):
        own = flat[starts[text] : starts[text + 1]]
        for token in own:
            occurrences[token] += 1
            counts[_list_of(token, occurrences[token])] += 1
        for token in own:
            occurrences[token] = 0


@njit(cache=True, nogil=True)
def _ordered(
    tokens: Int32s, rank: Int32s, occurrences: Int32s, keys: Ints
) -> tuple[np.uint64, np.uint64]:
    """Fill `keys` with the text's elements in order; returns its 128 parities.

    A key is the rank of the element's list (high half) and the list (low half).
    """
    count = len(tokens)
    bits = np.uint64(0)
    more_bits = np.uint64(0)
    for position in range(count):
        token = tokens[position]
        occurrences[token] += 1
        element = _list_of(token, occurrences[token])
        mixed = _mixed(token, occurrences[token])
        bit = np.uint64(1) << ((mixed >> np.uint64(20)) & np.uint64(63))
        if (mixed >> np.uint64(26)) & np.uint64(1):
            more_bits ^= bit
        else:
            bits ^= bit
        order = np.int64(rank[element]) if element < len(rank) else UNSEEN_BELOW - 1 - element
        key = (order << 32) | element
        at = position
        while count <= _INSERTED and at > 0 and keys[at - 1] > key:
            keys[at] = keys[at - 1]
            at -= 1
        keys[at] = key
    for token in tokens:
        occurrences[token] = 0
    if count > _INSERTED:
        keys[:count] = np.sort(keys[:count])
    return bits, more_bits


@njit(cache=True, nogil=True)
def _post(
    keys: Ints,
    length: int,
    text: int,
    folded: np.uint64,
    heads: UInt64s,
    postings: UInt64s,
    used: int,
    widest: Ints,
    shortest: Ints,
) -> tuple[UInt64s, int]:
    """Add a text's prefix to the lists; returns the postings, perhaps reallocated, and their end.

    `used` counts entries of two numbers; block 0 is not used.
    """
    lacking = np.uint64(_LONGEST - min(length, _LONGEST))
    own = (np.uint64(text) << np.uint64(32)) | np.uint64(_GUARDS) | (lacking << np.uint64(16))
    least = shortest[length]
    for position in range(length):
        reach = widest[length - position] - length
        if reach < least:
            break
        head = (np.uint64(keys[position]) & np.uint64(_LOW)) << np.uint64(1)
        block = heads[head]
        count = heads[head + np.uint64(1)]
        if block == 0 or count == postings[block << np.uint64(1)]:
            size: Any = np.int64(count) * 2 + 1
            if block and size < _SMALL_BLOCK:
                size = np.int64(count) * 4 + 3
            if 2 * (used + size + 1) > len(postings):
                larger = np.empty(max(len(postings) * 3 // 2, 4 * (used + size + 1)), np.uint64)
                larger[: 2 * used] = postings[: 2 * used]
                postings = larger
            postings[2 * used] = np.uint64(size)
            postings[2 * used + 1] = block
            block = np.uint64(used)
            count = np.uint64(0)
            used += size + 1
            heads[head] = block
        at = (block + np.uint64(1) + count) << np.uint64(1)
        postings[at] = own | np.uint64(min(reach, _LONGEST))
        postings[at + np.uint64(1)] = folded
        heads[head + np.uint64(1)] = count + np.uint64(1)
    return postings, used


@njit(cache=True, nogil=True)
def post_all(
    tokens: Int32s, ends: Ints, lists: Lists, postings: UInt64s, limits: Limits, occurrences: Int32s
) -> tuple[UInt64s, int]:
    """Post the whole pool again, overwriting `postings`; returns as `_post` does."""
    heads, rank = lists
    longest = 1
    for text in range(len(ends) - 1):
        longest = max(longest, ends[text + 1] - ends[text])
    keys = np.empty(longest, np.int64)
    used = 1
    for text in range(len(ends) - 1):
        own = tokens[ends[text] : ends[text + 1]]
        bits, more_bits = _ordered(own, rank, occurrences, keys)
        folded = bits ^ more_bits
        postings, used = _post(
            keys, len(own), text, folded, heads, postings, used, limits.widest, limits.shortest
        )
    return postings, used


@njit(cache=True, nogil=True)
def _meet(
    keys: Ints,
    length: int,
    folded: np.uint64,
    heads: UInt64s,
    postings: UInt64s,
    slack: Ints,
    widest: Ints,
    shortest: Ints,
    mark: int,
    met: Int32s,
    near: Int32s,
) -> int:
    """Fill `near` with the texts whose postings pass, marked in `met`; returns how many.

    A function of its own, without arrays of its own: otherwise numba counts references in the loop.
    """
    meetings = 0
    nearest = shortest[length]
    longest_total = np.uint64(length + _LONGEST)
    for position in range(length):
        reach = widest[length - position] - length
        if reach < nearest:
            break
        floors = np.uint64(_LONGEST - min(reach, _LONGEST)) << np.uint64(16)
        floors |= np.uint64(min(length, _LONGEST))
        head = (np.uint64(keys[position]) & np.uint64(_LOW)) << np.uint64(1)
        block = heads[head] << np.uint64(1)
        count = heads[head + np.uint64(1)]
        while block:
            at = block + np.uint64(2)
            end = at + (count << np.uint64(1))
            while at < end:
                posting = postings[at]
                differing = _ones(postings[at + np.uint64(1)] ^ folded)
                at += np.uint64(2)
                lacking = (posting >> np.uint64(16)) & np.uint64(_LONGEST)
                most = slack[longest_total - lacking]
                fits = ((posting - floors) & np.uint64(_GUARDS)) == np.uint64(_GUARDS)
                if fits & (differing <= most):
                    other = posting >> np.uint64(32)
                    if met[other] != mark:
                        met[other] = mark
                        near[meetings] = other
                        meetings += 1
            block = postings[block + np.uint64(1)] << np.uint64(1)
            count = postings[block]
    return meetings


@njit(cache=True, nogil=True)
def decide(
    flat: Int32s,
    starts: Ints,
    store: Texts,
    pool: int,
    lists: Lists,
    postings: UInt64s,
    used: int,
    limits: Limits,
    scratch: Scratch,
    given: int,
    kept: NDArray[np.bool_],
    ask: bool,
) -> tuple[UInt64s, int, int, Ints, Ints, Any]:
    """Decide on every text; returns postings, their end, the pool's size, and the matches.

    Each text looks up the elements of its prefix, compares lengths and signatures with the texts
    that it meets there, and verifies those that are left by their LCS.

    `given` counts the texts of earlier calls, so that each text has its own mark in `met`.
    """
    longest = 1
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    keys = np.empty(longest, np.int64)
    masks = np.empty((longest + 1, (longest + 63) >> 6), np.uint64)
    state = np.empty((longest + 63) >> 6, np.uint64)
    heads, rank = lists
    occurrences, rows, met, near = scratch
    pool_tokens, ends, pool_bits = store
    least, slack, widest, shortest, threshold, reaches = limits
    texts, others, scores = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    matches = 0
    for text in range(len(starts) - 1):
        own = flat[starts[text] : starts[text + 1]]
        length = len(own)
        bits, more_bits = _ordered(own, rank, occurrences, keys)
        folded = bits ^ more_bits
        meetings = 0
        if ask:
            mark = given + text + 1
            meetings = _meet(
                keys, length, folded, heads, postings, slack, widest, shortest, mark, met, near
            )
        prepared = False
        for meeting in range(meetings):
            other = near[meeting]
            theirs = pool_tokens[ends[other] : ends[other + 1]]
            total = length + len(theirs)
            differing = _ones(pool_bits[2 * other] ^ bits)
            differing += _ones(pool_bits[2 * other + 1] ^ more_bits)
            if differing > slack[total]:
                continue
            if not prepared:
                prepared = True
                _fill_masks(own, rows, masks, (length + 63) >> 6)
            lcs = _lcs_of(rows, masks, state, length, theirs)
            if lcs < least[total]:
                continue
            precision = lcs / length
            recall = lcs / len(theirs)
            score = 2 * precision * recall / (precision + recall)
            if score > threshold or (reaches and score == threshold):
                kept[text] = False
                if matches == len(texts):
                    texts = np.concatenate((texts, texts))
                    others = np.concatenate((others, others))
                    scores = np.concatenate((scores, scores))
                texts[matches] = text
                others[matches] = other
                scores[matches] = score
                matches += 1
        if prepared:
            for token in own:
                rows[token] = 0
        if not kept[text]:
            continue
        end = ends[pool]
        pool_tokens[end : end + length] = own
        ends[pool + 1] = end + length
        pool_bits[2 * pool] = bits
        pool_bits[2 * pool + 1] = more_bits
        postings, used = _post(keys, length, pool, folded, heads, postings, used, widest, shortest)
        pool += 1
    return postings, used, pool, texts[:matches], others[:matches], scores[:matches]
