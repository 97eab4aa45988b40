"""Decides on texts in order and reports the text that each is too similar to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from itertools import compress
from typing import Literal, NamedTuple

import numpy as np

from refine_dagster.errors import RefineError
from refine_dagster.language import Reading
from refine_dagster.novelty.pool import Outcome, Pool, RefuseAt, WholePool
from refine_dagster.novelty.prefix_join import PrefixJoin
from refine_dagster.novelty.tokenizers import Tokenizer, tokenizer_of
from refine_dagster.novelty.vocabulary import Encoder, Tokens, Vocabulary

# Texts of one call to the pool: enough to spread the call's cost, few enough to bound memory.
_BATCH = 4096
_COMPILED_BATCH = 8192


NearestOf = Literal["refused", "all"]
"""For which texts the nearest is found: refused texts only, or kept texts too."""

Key = int | str
"""The name of a text: its position in all that the filter was given, or the caller's id."""


class Decision(NamedTuple):
    """The filter's decision on one text."""

    kept: bool  # whether the text joined the pool
    # Highest ROUGE-L F with the pool before it. None: kept, and only refused texts are measured.
    score: float | None
    nearest: Key | None  # of the pool text with that score, the lowest on ties
    tokenizer: Tokenizer = "rouge_score"


class NoveltyFilter:
    """Keeps a pool of texts no two of which are too similar by ROUGE-L.

    Decisions equal those of a loop that compares each text with the whole pool through
    `rouge_score` with that tokenizer, float for float, however the texts are divided into calls. A
    text without tokens scores 0 against everything, but 1 against itself.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: see `RefuseAt`.
        use_stemmer: compare Porter stems, as `rouge_score` does with `use_stemmer`.
        nearest_of: `refused` uses an index; `all` compares each text with the whole pool.
        compiled: use code compiled by numba (the extra `fast`); decisions are the same. Has no
            effect with `nearest_of="all"`.
        reading: the tokenizer of all texts, or `by_script`: `unicode` for texts with letters that
            are not Latin or with pictographs, `rouge_score` for all others.

    Raises:
        RefineError: the threshold is out of range, numba is not installed, or stems are wanted of
            a language that is not English.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        refuse_at: RefuseAt = "reaches",
        use_stemmer: bool = False,
        nearest_of: NearestOf = "refused",
        compiled: bool = False,
        reading: Reading = "rouge_score",
    ) -> None:
        if not 0 < threshold <= 1:
            raise RefineError(
                f"a novelty threshold of {threshold}",
                fix="give a ROUGE-L F above 0 and at most 1, such as 0.7",
            )
        if use_stemmer and reading == "unicode":
            raise RefineError("Porter's stems are of English words", fix="compare without stems")
        self.threshold = threshold
        self.refuse_at = refuse_at
        self.nearest_of = nearest_of
        self._reading: Reading = reading
        self._vocabulary: Encoder = Vocabulary(use_stemmer=use_stemmer, reading=reading)
        self._pool: Pool
        if nearest_of == "all":
            self._pool = WholePool(threshold, refuse_at)
        elif not compiled:
            self._pool = PrefixJoin(threshold, refuse_at)
        elif has_compiler():
            from refine_dagster.novelty.compiled_pool import CompiledPool, CompiledVocabulary

            self._pool = CompiledPool(threshold, refuse_at)
            if not use_stemmer:
                self._vocabulary = CompiledVocabulary(reading)
        else:
            raise RefineError(
                "the compiled novelty filter needs numba, which is not installed",
                fix="pip install 'refine-dagster[fast]', or leave it out: decisions are the same",
            )
        self._batch = _COMPILED_BATCH if compiled else _BATCH
        self._keys: list[Key] = []
        self._given = 0
        # Text without tokens -> key; and how many entries of the pool repeat such a text.
        self._without_tokens: dict[str, Key] = {}
        self._repeated = 0

    def __len__(self) -> int:
        """Texts in the pool."""
        return len(self._keys) - self._repeated

    def preload(self, texts: Sequence[str], keys: Sequence[Key] | None = None) -> None:
        """Put texts into the pool without a decision.

        `keys` name them, all of one type; without keys, positions do.
        """
        named = self._named(texts, keys)
        for start in range(0, len(texts), self._batch):
            batch = slice(start, start + self._batch)
            tokens = self._vocabulary.encode(texts[batch])
            self._pool.add(tokens)
            self._repeats(texts[batch], tokens, named[batch])
        self._keys += named

    def accept(self, texts: Sequence[str], keys: Sequence[Key] | None = None) -> list[Decision]:
        """Decide on texts in order; each kept one is in the pool of the next."""
        named = self._named(texts, keys)
        decisions: list[Decision] = []
        for start in range(0, len(texts), self._batch):
            batch = slice(start, start + self._batch)
            tokens = self._vocabulary.encode(texts[batch])
            decided = self._decisions(self._pool.offer(tokens), named[batch])
            if self.threshold < 1 or self.refuse_at == "reaches":
                repeats = self._repeats(texts[batch], tokens, named[batch])
                self._repeated += len(repeats)
                for index, key in repeats.items():
                    decided[index] = Decision(False, 1.0, key)
            decisions += decided
        if self._reading == "rouge_score":
            return decisions
        return [
            decision._replace(tokenizer=tokenizer_of(text, self._reading))
            for text, decision in zip(texts, decisions, strict=True)
        ]

    def _repeats(self, texts: Sequence[str], tokens: Tokens, keys: Sequence[Key]) -> dict[int, Key]:
        """Index of a text without tokens that was there before -> key of the first."""
        repeats = {}
        for index in np.flatnonzero(tokens.lengths == 0).tolist():
            if texts[index] in self._without_tokens:
                repeats[index] = self._without_tokens[texts[index]]
            else:
                self._without_tokens[texts[index]] = keys[index]
        return repeats

    def _named(self, texts: Sequence[str], keys: Sequence[Key] | None) -> list[Key]:
        first = self._given
        self._given += len(texts)
        if keys is None:
            return list(range(first, self._given))
        if len(keys) != len(texts):
            raise ValueError(f"{len(keys)} keys for {len(texts)} texts")
        return list(keys)

    def _decisions(self, outcome: Outcome, keys: Sequence[Key]) -> list[Decision]:
        unknown = Decision(True, 0.0 if self.nearest_of == "all" else None, None)
        decisions = [unknown] * len(keys)
        kept = outcome.kept.tolist()
        self._keys += compress(keys, kept)
        last = -1
        for text, other, score in zip(*(column.tolist() for column in outcome.best), strict=True):
            key = self._keys[other]
            if text == last:
                key = min(key, decisions[text].nearest)
            decisions[text] = Decision(kept[text], score, key)
            last = text
        return decisions


def has_compiler() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None
