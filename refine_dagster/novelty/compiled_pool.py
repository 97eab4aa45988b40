"""The pool as an index, one text at a time, in compiled code.

The same bounds as `postings`, walked instead of joined: each text looks up the elements of its
prefix, compares lengths and signatures with the texts it meets, and verifies those that are left by
a bit-parallel LCS (Hyyrö 2004: one word of bits for 64 tokens of the text). Postings up to the last
renewal lie in one array by element; later ones are chained, newest first.

Each token has a list of postings; second and later occurrences of tokens share others by hash, in
order as in lists: a list may hold a stranger's postings, which costs a comparison and decides
nothing. Lists are ordered by how many texts they have met, rarest first. Needs numba (the extra
`fast`).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from refine_dagster.novelty.decision import RefuseAt
from refine_dagster.novelty.growing import Growing
from refine_dagster.novelty.matches import Matches, Outcome, best_of
from refine_dagster.novelty.rouge import Bounds, Ints
from refine_dagster.novelty.vocabulary import Tokens

# Lists that second and later occurrences share.
_SHARED = 1 << 14
# The index is laid out anew when the pool has grown by this part of itself.
_RENEWED_PER = 4
_COLUMNS = 4
# Texts up to this many tokens are sorted by insertion.
_INSERTED = 48
_LOW = 0xFFFFFFFF
# Lists met since the last renewal rank below those that had been met.
_UNSEEN_BELOW = 1 << 29


class _Index(NamedTuple):
    """Postings: `begin` and the columns `lying` up to the last renewal, chains since.

    Columns are [text, length, reach, 32 of the text's bits]; a chained posting has the place of the
    next one too.
    """

    begin: Ints
    lying: NDArray[np.int32]
    heads: NDArray[np.int32]
    chained: NDArray[np.int32]
    rank: NDArray[np.int32]
    by_rank: NDArray[np.int32]


class _Texts(NamedTuple):
    """The pool's tokens end to end, where each text ends (from 0), and two words of bits each."""

    tokens: NDArray[np.int32]
    ends: Ints
    bits: NDArray[np.uint64]


class _Limits(NamedTuple):
    least: Ints
    widest: Ints
    shortest: Ints
    threshold: float
    reaches: bool


class CompiledPool:
    """A pool of texts that no two of a batch's kept ones reach the threshold with.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: which side of the threshold a tie is on.
    """

    def __init__(self, threshold: float, refuse_at: RefuseAt) -> None:
        self._threshold = threshold
        self._reaches = refuse_at == "reaches"
        self._bounds = Bounds(threshold)
        self._tokens = Growing(np.int32)
        self._ends = Growing(np.int64)
        self._ends.extend(np.zeros(1, dtype=np.int64))
        self._bits = Growing(np.uint64)
        self._counts: Ints = np.zeros(_SHARED, dtype=np.int64)
        self._rank: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._by_rank: NDArray[np.int32] = np.zeros(0, dtype=np.int32)
        self._begin: Ints = np.zeros(1, dtype=np.int64)
        self._lying: NDArray[np.int32] = np.zeros((0, _COLUMNS), dtype=np.int32)
        self._heads: NDArray[np.int32] = np.full(_SHARED, -1, dtype=np.int32)
        self._chained = Growing(np.int32)
        self._renew_at = 0

    def add(self, tokens: Tokens) -> None:
        """Put texts into the pool without asking."""
        self._decide(tokens, ask=False)

    def offer(self, tokens: Tokens) -> Outcome:
        """Decide on texts in order; the kept ones join the pool."""
        return self._decide(tokens, ask=True)

    def _decide(self, tokens: Tokens, *, ask: bool) -> Outcome:
        texts = len(tokens.starts) - 1
        self._make_room(tokens, texts)
        pool = len(self._ends) - 1
        if pool >= self._renew_at:
            self._renew_at = pool + pool // _RENEWED_PER + texts
            self._renew()
        limits = _Limits(
            self._bounds.least,
            self._bounds.widest,
            self._bounds.shortest,
            self._threshold,
            self._reaches,
        )
        index = _Index(
            self._begin, self._lying, self._heads, self._chained.room, self._rank, self._by_rank
        )
        store = _Texts(self._tokens.room, self._ends.room, self._bits.room)
        kept = np.ones(texts, dtype=np.bool_)
        chained, pool, text, place, score = _decide(
            tokens.flat, tokens.starts, store, pool, index, len(self._chained), limits, kept, ask
        )
        self._chained.count_in(chained)
        self._ends.count_in(pool + 1)
        self._bits.count_in(2 * pool)
        self._tokens.count_in(int(self._ends.view[-1]))
        return Outcome(kept, best_of(Matches(text, place, score)))

    def _make_room(self, tokens: Tokens, texts: int) -> None:
        size = len(tokens.flat)
        if size:
            self._bounds.cover(int(tokens.lengths.max()))
            lists = _SHARED + int(tokens.flat.max()) + 1
            if lists > len(self._counts):
                more = 2 * lists - len(self._counts)
                self._counts = np.concatenate([self._counts, np.zeros(more, dtype=np.int64)])
                self._heads = np.concatenate([self._heads, np.full(more, -1, dtype=np.int32)])
            _count(tokens.flat, tokens.starts, self._counts)
        self._tokens.reserve(len(self._tokens) + size)
        self._ends.reserve(len(self._ends) + texts)
        self._bits.reserve(len(self._bits) + 2 * texts)
        self._chained.reserve(len(self._chained) + (_COLUMNS + 1) * size)

    def _renew(self) -> None:
        """Order the elements by their counts so far, and lay all postings out in that order."""
        self._by_rank = np.argsort(self._counts, kind="stable").astype(np.int32)
        self._rank = np.empty(len(self._counts), dtype=np.int32)
        self._rank[self._by_rank] = np.arange(
            _UNSEEN_BELOW, _UNSEEN_BELOW + len(self._counts), dtype=np.int32
        )
        self._begin, self._lying = _lay_out(
            self._tokens.view,
            self._ends.view,
            self._bits.view,
            self._rank,
            self._by_rank,
            self._bounds.widest,
            self._bounds.shortest,
        )
        self._heads[:] = -1
        self._chained.count_in(0)


@njit(cache=True, nogil=True)
def _mixed(token: int, occurrence: int) -> np.uint64:
    value = (np.uint64(occurrence) << np.uint64(32)) | np.uint64(token)
    value *= np.uint64(0x9E3779B97F4A7C15)
    return value ^ (value >> np.uint64(32))


@njit(cache=True, nogil=True)
def _list_of(token: int, occurrence: int) -> np.int64:
    if occurrence > 1:
        return np.int64(_mixed(token, occurrence) & np.uint64(_SHARED - 1))
    return np.int64(_SHARED + token)


@njit(cache=True, nogil=True)
def _list_ranked(key: int, by_rank: NDArray[np.int32]) -> np.int64:
    rank = key >> 32
    if rank >= _UNSEEN_BELOW:
        return np.int64(by_rank[rank - _UNSEEN_BELOW])
    return np.int64(_UNSEEN_BELOW - 1 - rank)


@njit(cache=True, nogil=True)
def _count(flat: NDArray[np.int32], starts: Ints, counts: Ints) -> None:
    occurrences = np.zeros(len(counts), np.int32)
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
    bits: NDArray[np.uint64],
) -> None:
    """Fill `keys` with the text's elements in order, and the two words of `bits`.

    The high half of a key is the rank of the element's list, the low half the token.
    """
    count = len(tokens)
    bits[:] = np.uint64(0)
    for place in range(count):
        token = tokens[place]
        occurrences[token] += 1
        chosen = _list_of(token, occurrences[token])
        mixed = _mixed(token, occurrences[token])
        bit = np.uint64(1) << ((mixed >> np.uint64(20)) & np.uint64(63))
        bits[np.int64((mixed >> np.uint64(26)) & np.uint64(1))] ^= bit
        order = np.int64(rank[chosen]) if chosen < len(rank) else _UNSEEN_BELOW - 1 - chosen
        key = (order << 32) | token
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


@njit(cache=True, nogil=True)
def _lay_out(
    tokens: NDArray[np.int32],
    ends: Ints,
    bits: NDArray[np.uint64],
    rank: NDArray[np.int32],
    by_rank: NDArray[np.int32],
    widest: Ints,
    shortest: Ints,
) -> tuple[Ints, NDArray[np.int32]]:
    """Postings of the whole pool, by list, within each by length."""
    lists = len(rank)
    begin = np.zeros(lists + 1, np.int64)
    scratch = np.zeros(2, np.uint64)
    by_length = np.argsort(ends[1:] - ends[:-1], kind="mergesort")
    occurrences = np.zeros(lists, np.int32)
    longest = 1
    for text in range(len(ends) - 1):
        longest = max(longest, ends[text + 1] - ends[text])
    keys = np.empty(longest, np.int64)
    chosen = np.empty(len(tokens), np.int32)
    found = np.empty((len(tokens), _COLUMNS), np.int32)
    count = 0
    for text in by_length:
        own = tokens[ends[text] : ends[text + 1]]
        length = len(own)
        _ordered(own, rank, occurrences, keys, scratch)
        for place in range(length):
            reach = widest[length - place] - length
            if reach < shortest[length]:
                break
            chosen[count] = _list_ranked(keys[place], by_rank)
            begin[chosen[count] + 1] += 1
            found[count, 0] = text
            found[count, 1] = length
            found[count, 2] = reach
            found[count, 3] = _some_of(bits[2 * text])
            count += 1
    begin = np.cumsum(begin)
    lying = np.empty((count, _COLUMNS), np.int32)
    for posting in range(count):
        at = begin[chosen[posting]]
        for column in range(_COLUMNS):
            lying[at, column] = found[posting, column]
        begin[chosen[posting]] += 1
    # Writing has moved each beginning to its list's end.
    begin[1:] = begin[:-1].copy()
    begin[0] = 0
    return begin, lying


@njit(cache=True, nogil=True)
def _some_of(bits: np.uint64) -> np.int32:
    return np.int32(np.uint32(bits & np.uint64(_LOW)))


@njit(cache=True, nogil=True)
def _ones(word: np.uint64) -> np.int64:
    word = word - ((word >> np.uint64(1)) & np.uint64(0x5555555555555555))
    word = (word & np.uint64(0x3333333333333333)) + (
        (word >> np.uint64(2)) & np.uint64(0x3333333333333333)
    )
    word = (word + (word >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * np.uint64(0x0101010101010101)) >> np.uint64(56))


@njit(cache=True, nogil=True)
def _lcs(
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
        found += _ones(left)
    return found


@njit(cache=True, nogil=True)
def _decide(
    flat: NDArray[np.int32],
    starts: Ints,
    store: _Texts,
    pool: int,
    index: _Index,
    chained: int,
    limits: _Limits,
    kept: NDArray[np.bool_],
    ask: bool,
) -> tuple[int, int, Ints, Ints, Any]:
    """Decide on every text; returns new counts of chained numbers and texts, and the matches."""
    longest = 1
    for text in range(len(starts) - 1):
        longest = max(longest, starts[text + 1] - starts[text])
    keys = np.empty(longest, np.int64)
    occurrences = np.zeros(len(index.heads), np.int32)
    rows = np.zeros(len(index.heads), np.int32)
    masks = np.zeros((longest + 1, (longest + 63) >> 6), np.uint64)
    words = np.zeros(2, np.uint64)
    state = np.zeros((longest + 63) >> 6, np.uint64)
    met = np.full(len(store.ends), -1, np.int32)
    texts, places, scores = np.empty(64, np.int64), np.empty(64, np.int64), np.empty(64)
    found = 0
    for text in range(len(starts) - 1):
        own = flat[starts[text] : starts[text + 1]]
        length = len(own)
        _ordered(own, index.rank, occurrences, keys, words)
        bits, more_bits = words[0], words[1]
        some_bits = _some_of(bits)
        shortest = limits.shortest[length]
        prepared = False
        if ask:
            for place in range(length):
                reach = limits.widest[length - place] - length
                if reach < shortest:
                    break
                chosen = _list_ranked(keys[place], index.by_rank)
                lying = chosen + 1 < len(index.begin)
                at = index.begin[chosen] if lying else 0
                end = index.begin[chosen + 1] if lying else 0
                link = index.heads[chosen]
                high = end
                while at < high:
                    middle = (at + high) >> 1
                    if index.lying[middle, 1] < shortest:
                        at = middle + 1
                    else:
                        high = middle
                while True:
                    if at < end:
                        other = index.lying[at, 0]
                        size = index.lying[at, 1]
                        far = index.lying[at, 2]
                        some = index.lying[at, 3]
                        at = at + 1 if size <= reach else end
                    elif link >= 0:
                        other = index.chained[link]
                        size = index.chained[link + 1]
                        far = index.chained[link + 2]
                        some = index.chained[link + 3]
                        link = index.chained[link + 4]
                    else:
                        break
                    if size > reach or size < shortest or far < length:
                        continue
                    total = length + size
                    most = total - 2 * limits.least[total]
                    if _ones(np.uint64(np.uint32(some ^ some_bits))) > most:
                        continue
                    unshared = _ones(store.bits[2 * other] ^ bits)
                    unshared += _ones(store.bits[2 * other + 1] ^ more_bits)
                    if unshared > most or met[other] == text:
                        continue
                    met[other] = text
                    if not prepared:
                        prepared = True
                        used = 0
                        for spot in range(length):
                            token = own[spot]
                            if rows[token] == 0:
                                used += 1
                                rows[token] = used
                                masks[used, :] = np.uint64(0)
                            masks[rows[token], spot >> 6] |= np.uint64(1) << np.uint64(spot & 63)
                    theirs = store.tokens[store.ends[other] : store.ends[other + 1]]
                    lcs = _lcs(rows, masks, state, length, theirs)
                    if lcs == 0:
                        continue
                    precision = lcs / length
                    recall = lcs / size
                    score = 2 * precision * recall / (precision + recall)
                    if score > limits.threshold or (limits.reaches and score == limits.threshold):
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
        end = store.ends[pool]
        store.tokens[end : end + length] = own
        store.ends[pool + 1] = end + length
        store.bits[2 * pool] = bits
        store.bits[2 * pool + 1] = more_bits
        for place in range(length):
            reach = limits.widest[length - place] - length
            if reach < shortest:
                break
            chosen = _list_ranked(keys[place], index.by_rank)
            index.chained[chained] = pool
            index.chained[chained + 1] = length
            index.chained[chained + 2] = reach
            index.chained[chained + 3] = some_bits
            index.chained[chained + 4] = index.heads[chosen]
            index.heads[chosen] = chained
            chained += _COLUMNS + 1
        pool += 1
    return chained, pool, texts[:found], places[:found], scores[:found]
