"""The pool's index walked by compiled code.

The same bounds as `postings`, walked instead of joined: each text looks up the elements of its
prefix, compares lengths and signatures with the texts it meets, and verifies those that are left
(`compiled_lcs`).

Each token has a list of postings; second and later occurrences of tokens share others by hash, in
order as in lists: a list may hold a stranger's postings, which costs a comparison and decides
nothing. Lists are ordered by how many texts they have met, rarest first.

A posting is two numbers of 64 bits. The first holds the text's place, what its length lacks to the
longest, and its reach, the latter two below a bit that is set: one subtraction tests both, for a
test that fails borrows its bit. The second is the halves of the text's 128 parities laid over each
other, in which two texts still differ in no more bits than elements. A list's postings lie in
blocks, each larger than the one before, so that a walk reads memory in order and few texts are
looked up. The first entry of a block is its size and the block before. Places are unsigned because
signed ones would be tested for being counted from the end. Needs numba.

LCS of two texts by bits (Hyyrö 2004), compiled: one word for 64 tokens. Needs numba.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Ints


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


# Lists that second and later occurrences share.
SHARED_LISTS = 1 << 14
# Lists met since the last renewal rank below those that had been met.
UNSEEN_BELOW = 1 << 29
# Texts up to this many tokens are sorted by insertion.
_INSERTED = 48
_LOW = 0xFFFFFFFF
# Lengths in postings end here; what is longer counts as this long, and later tests tell.
_LONGEST = 0x7FFF
_GUARDS = 0x80008000
# Blocks grow to four times the one before up to this many postings, then to twice.
_SMALL_BLOCK = 64


class Lists(NamedTuple):
    """Two numbers a list, its last block (0: none) and that block's postings; ranks of lists."""

    heads: NDArray[np.uint64]
    rank: NDArray[np.int32]


class Texts(NamedTuple):
    """The pool's tokens end to end, where each text ends (from 0), and two words of bits each."""

    tokens: NDArray[np.int32]
    ends: Ints
    bits: NDArray[np.uint64]


class Limits(NamedTuple):
    """`Bounds`, at m+n how many elements may be unshared, and the rule."""

    least: Ints
    slack: Ints
    widest: Ints
    shortest: Ints
    threshold: float
    reaches: bool


class Scratch(NamedTuple):
    """By token, all zeros between texts: occurrences and rows of masks.

    By text of the pool: the mark of the last that met it, and room for those that one meets.
    """

    occurrences: NDArray[np.int32]
    rows: NDArray[np.int32]
    met: NDArray[np.int32]
    near: NDArray[np.int32]


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
def count_elements(
    flat: NDArray[np.int32], starts: Ints, counts: Ints, occurrences: NDArray[np.int32]
) -> None:
    """Add texts' elements to the counts of their lists."""
    for text in range(len(starts) - 1):
        own = flat[starts[text] : starts[text + 1]]
        for token in own:
            occurrences[token] += 1
            counts[_list_of(token, occurrences[token])] += 1
        for token in own:
            occurrences[token] = 0


@njit(cache=True, nogil=True)
def _ordered(
    tokens: NDArray[np.int32],
    rank: NDArray[np.int32],
    occurrences: NDArray[np.int32],
    keys: Ints,
) -> tuple[np.uint64, np.uint64]:
    """Fill `keys` with the text's elements in order; returns its 128 bits.

    The high half of a key is the rank of the element's list, the low half the list.
    """
    count = len(tokens)
    bits = np.uint64(0)
    more_bits = np.uint64(0)
    for place in range(count):
        token = tokens[place]
        occurrences[token] += 1
        chosen = _list_of(token, occurrences[token])
        mixed = _mixed(token, occurrences[token])
        bit = np.uint64(1) << ((mixed >> np.uint64(20)) & np.uint64(63))
        if (mixed >> np.uint64(26)) & np.uint64(1):
            more_bits ^= bit
        else:
            bits ^= bit
        order = np.int64(rank[chosen]) if chosen < len(rank) else UNSEEN_BELOW - 1 - chosen
        key = (order << 32) | chosen
        if count <= _INSERTED:
            at = place
            while at > 0 and keys[at - 1] > key:
                keys[at] = keys[at - 1]
                at -= 1
            keys[at] = key
        else:
            keys[place] = key
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
    heads: NDArray[np.uint64],
    postings: NDArray[np.uint64],
    used: int,
    widest: Ints,
    shortest: Ints,
) -> tuple[NDArray[np.uint64], int]:
    """Put a text's prefix into the lists; returns the postings, which may be others, and their end.

    `used` counts entries of two numbers; block 0 is nobody's.
    """
    lacking = np.uint64(_LONGEST - min(length, _LONGEST))
    own = (np.uint64(text) << np.uint64(32)) | np.uint64(_GUARDS) | (lacking << np.uint64(16))
    least = shortest[length]
    for place in range(length):
        reach = widest[length - place] - length
        if reach < least:
            break
        chosen = (np.uint64(keys[place]) & np.uint64(_LOW)) << np.uint64(1)
        block = heads[chosen]
        count = heads[chosen + np.uint64(1)]
        if block == 0 or count == postings[block << np.uint64(1)]:
            size: Any = np.int64(count) * 2 + 1
            if block == 0:
                size = 1
            elif size < _SMALL_BLOCK:
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
            heads[chosen] = block
        at = (block + np.uint64(1) + count) << np.uint64(1)
        postings[at] = own | np.uint64(min(reach, _LONGEST))
        postings[at + np.uint64(1)] = folded
        heads[chosen + np.uint64(1)] = count + np.uint64(1)
    return postings, used


@njit(cache=True, nogil=True)
def post_all(
    tokens: NDArray[np.int32],
    ends: Ints,
    lists: Lists,
    postings: NDArray[np.uint64],
    limits: Limits,
    occurrences: NDArray[np.int32],
) -> tuple[NDArray[np.uint64], int]:
    """Postings of the whole pool, written over those there are."""
    longest = 1
    for text in range(len(ends) - 1):
        longest = max(longest, ends[text + 1] - ends[text])
    keys = np.empty(longest, np.int64)
    used = 1
    for text in range(len(ends) - 1):
        own = tokens[ends[text] : ends[text + 1]]
        bits, more_bits = _ordered(own, lists.rank, occurrences, keys)
        postings, used = _post(
            keys,
            len(own),
            text,
            bits ^ more_bits,
            lists.heads,
            postings,
            used,
            limits.widest,
            limits.shortest,
        )
    return postings, used


@njit(cache=True, nogil=True)
def _meet(
    keys: Ints,
    length: int,
    folded: np.uint64,
    heads: NDArray[np.uint64],
    postings: NDArray[np.uint64],
    slack: Ints,
    widest: Ints,
    shortest: Ints,
    mark: int,
    met: NDArray[np.int32],
    near: NDArray[np.int32],
) -> int:
    """Fill `near` with the texts whose postings pass; returns how many. Marks them in `met`.

    A function of its own that makes no arrays: in a loop that does, numba counts references to all.
    """
    found = 0
    nearest = shortest[length]
    longest_total = np.uint64(length + _LONGEST)
    for place in range(length):
        reach = widest[length - place] - length
        if reach < nearest:
            break
        floors = np.uint64(_LONGEST - min(reach, _LONGEST)) << np.uint64(16)
        floors |= np.uint64(min(length, _LONGEST))
        chosen = (np.uint64(keys[place]) & np.uint64(_LOW)) << np.uint64(1)
        block = heads[chosen] << np.uint64(1)
        count = heads[chosen + np.uint64(1)]
        while block:
            at = block + np.uint64(2)
            end = at + (count << np.uint64(1))
            while at < end:
                head = postings[at]
                differing = ones(postings[at + np.uint64(1)] ^ folded)
                at += np.uint64(2)
                lacking = (head >> np.uint64(16)) & np.uint64(_LONGEST)
                most = slack[longest_total - lacking]
                fits = ((head - floors) & np.uint64(_GUARDS)) == np.uint64(_GUARDS)
                if fits & (differing <= most):
                    other = head >> np.uint64(32)
                    if met[other] != mark:
                        met[other] = mark
                        near[found] = other
                        found += 1
            block = postings[block + np.uint64(1)] << np.uint64(1)
            count = postings[block]
    return found


@njit(cache=True, nogil=True)
def decide(
    flat: NDArray[np.int32],
    starts: Ints,
    store: Texts,
    pool: int,
    lists: Lists,
    postings: NDArray[np.uint64],
    used: int,
    limits: Limits,
    scratch: Scratch,
    given: int,
    kept: NDArray[np.bool_],
    ask: bool,
) -> tuple[NDArray[np.uint64], int, int, Ints, Ints, Any]:
    """Decide on every text; returns postings, their end, texts in the pool, and the matches.

    `given` counts the texts of earlier calls, so that each text has a mark of its own in `met`.
    """
    longest = 1
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    keys = np.empty(longest, np.int64)
    masks = np.empty((longest + 1, (longest + 63) >> 6), np.uint64)
    state = np.empty((longest + 63) >> 6, np.uint64)
    heads, rank = lists.heads, lists.rank
    occurrences, rows, met, near = scratch.occurrences, scratch.rows, scratch.met, scratch.near
    pool_tokens, ends, pool_bits = store.tokens, store.ends, store.bits
    least, slack, widest, shortest = limits.least, limits.slack, limits.widest, limits.shortest
    threshold, reaches = limits.threshold, limits.reaches
    texts, places, scores = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    found = 0
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
            differing = ones(pool_bits[2 * other] ^ bits)
            differing += ones(pool_bits[2 * other + 1] ^ more_bits)
            if differing > slack[total]:
                continue
            if not prepared:
                prepared = True
                fill_masks(own, rows, masks, (length + 63) >> 6)
            lcs = lcs_of(rows, masks, state, length, theirs)
            if lcs < least[total]:
                continue
            precision = lcs / length
            recall = lcs / len(theirs)
            score = 2 * precision * recall / (precision + recall)
            if score > threshold or (reaches and score == threshold):
                kept[text] = False
                if found == len(texts):
                    texts = np.concatenate((texts, texts))
                    places = np.concatenate((places, places))
                    scores = np.concatenate((scores, scores))
                texts[found] = text
                places[found] = other
                scores[found] = score
                found += 1
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
    return postings, used, pool, texts[:found], places[:found], scores[:found]
