"""`NoveltyFilter`: decides on texts in order, and says what each is too near to."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from refine_dagster.errors import RefineError
from refine_dagster.novelty.decision import Decision, Key, NearestOf, Outcome, Pool, RefuseAt
from refine_dagster.novelty.prefix_join import PrefixJoin
from refine_dagster.novelty.vocabulary import Encoder, Vocabulary
from refine_dagster.novelty.whole_pool import WholePool

# Texts decided on in one go: enough to spread the cost of a call, few enough to bound memory. The
# compiled index is searched text by text and gains nothing from more.
_AT_ONCE = 4096
_COMPILED_AT_ONCE = 8192


class NoveltyFilter:
    """Keeps a pool of texts no two of which are too alike by ROUGE-L.

    Decisions are those of the loop that compares each text with the whole pool through
    `rouge_score`, float for float, for any division of the texts into calls.

    Args:
        threshold: ROUGE-L F, above 0, at most 1.
        refuse_at: `reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold
            (Self-Instruct's code).
        use_stemmer: compare Porter stems, as `rouge_score` does when told to.
        nearest_of: `refused` finds the nearest of refused texts, which is what an index can find
            quickly; `all` compares each text with the whole pool and finds it of kept texts too.
        compiled: decide by compiled code, which needs numba (the extra `fast`) and compiles once a
            machine; decisions are the same. Has no part in `all`.

    Raises:
        RefineError: a threshold out of range, or no numba to compile with.
    """

    def __init__(
        self,
        threshold: float = 0.7,
        refuse_at: RefuseAt = "reaches",
        use_stemmer: bool = False,
        nearest_of: NearestOf = "refused",
        compiled: bool = False,
    ) -> None:
        if not 0 < threshold <= 1:
            raise RefineError(
                f"a novelty threshold of {threshold}",
                fix="give a ROUGE-L F above 0 and at most 1, such as 0.7",
            )
        self.threshold = threshold
        self.refuse_at = refuse_at
        self.nearest_of = nearest_of
        self._vocabulary, self._pool = _parts(
            threshold, refuse_at, use_stemmer, nearest_of, compiled
        )
        self._at_once = _COMPILED_AT_ONCE if compiled else _AT_ONCE
        self._keys: list[Key] = []
        self._given = 0

    def __len__(self) -> int:
        """Texts in the pool."""
        return len(self._keys)

    def preload(self, texts: Sequence[str], keys: Sequence[Key] | None = None) -> None:
        """Put texts into the pool without asking whether they are novel.

        Args:
            texts: in the order in which they joined.
            keys: what they go by; without them, their positions in all that the filter was given.
        """
        named = self._named(texts, keys)
        for start in range(0, len(texts), self._at_once):
            self._pool.add(self._vocabulary.encode(texts[start : start + self._at_once]))
        self._keys += named

    def accept(self, texts: Sequence[str], keys: Sequence[Key] | None = None) -> list[Decision]:
        """Decide on texts in order; each kept one is in the pool of the next.

        Args:
            texts: any texts. One without a token of [a-z0-9] scores 0 against everything and is
                kept: reject such texts beforehand, or leave them, but by a rule of their own.
            keys: as for `preload`; all keys of a filter are of one type.
        """
        named = self._named(texts, keys)
        decisions: list[Decision] = []
        for start in range(0, len(texts), self._at_once):
            end = start + self._at_once
            outcome = self._pool.offer(self._vocabulary.encode(texts[start:end]))
            decisions += self._told(outcome, named[start:end])
        return decisions

    def _named(self, texts: Sequence[str], keys: Sequence[Key] | None) -> list[Key]:
        first = self._given
        self._given += len(texts)
        if keys is None:
            return list(range(first, self._given))
        if len(keys) != len(texts):
            raise ValueError(f"{len(keys)} keys for {len(texts)} texts")
        return list(keys)

    def _told(self, outcome: Outcome, keys: Sequence[Key]) -> list[Decision]:
        unknown = Decision(True, 0.0 if self.nearest_of == "all" else None, None)
        decisions = [unknown] * len(keys)
        kept = outcome.kept.tolist()
        self._keys += [key for key, one in zip(keys, kept, strict=True) if one]
        of, best = self._keys, outcome.best
        last = -1
        for text, place, score in zip(
            best.text.tolist(), best.place.tolist(), best.score.tolist(), strict=True
        ):
            key = of[place]
            if text == last:
                before = decisions[text].nearest
                key = min(key, before)
            decisions[text] = Decision(kept[text], score, key)
            last = text
        return decisions


def has_compiler() -> bool:
    """Whether numba is installed."""
    return find_spec("numba") is not None


def _parts(
    threshold: float, refuse_at: RefuseAt, use_stemmer: bool, nearest_of: NearestOf, compiled: bool
) -> tuple[Encoder, Pool]:
    encoder: Encoder = Vocabulary(use_stemmer=use_stemmer)
    if nearest_of == "all":
        return encoder, WholePool(threshold, refuse_at)
    if not compiled:
        return encoder, PrefixJoin(threshold, refuse_at)
    if not has_compiler():
        raise RefineError(
            "the compiled novelty filter needs numba, which is not installed",
            fix="pip install 'refine-dagster[fast]', or do without: decisions are the same",
        )
    from refine_dagster.novelty.compiled_pool import CompiledPool, CompiledVocabulary

    return encoder if use_stemmer else CompiledVocabulary(), CompiledPool(threshold, refuse_at)
