"""The pool as an index: finds every text that reaches the threshold, and looks at few others.

A batch is decided in three steps that together are the sequential rule: (1) candidates are joined
with the pool, (2) those without a partner there are joined with each other, (3) a walk in order
accepts each that has no *accepted* earlier partner. A refused text's best match is sought among
the pool and the accepted texts before it, so that what is reported does not depend on batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cpdist

from refine_dagster.novelty.decision import RefuseAt
from refine_dagster.novelty.elements import Order, Repeats, Sets, ranked
from refine_dagster.novelty.growing import Growing
from refine_dagster.novelty.matches import Matches, Outcome, best_of
from refine_dagster.novelty.postings import Postings, Prefixes, prefixes
from refine_dagster.novelty.rouge import Bounds, Ints, rouge_l_of
from refine_dagster.novelty.vocabulary import Tokens, as_strings


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
