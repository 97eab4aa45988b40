"""The novelty filter: refuses a text whose ROUGE-L with a text of the pool is too high.

Decisions are those of the `rouge_score` package, float for float: with tokens m and n long and a
longest common subsequence of L, p = L/n, r = L/m, F = 2pr/(p+r) in that very order of operations.
A true tie at the threshold is decided by how that float rounds, and dozens of real instructions are
such ties, so no algebraically equal form will do. LCS lengths come bit-parallel from rapidfuzz.

The pool is searched in full for every text, and the nearest of it reported: highest F, then lowest
id. Importable on its own: no Dagster, torch or DuckDB.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

_TOKEN = re.compile(r"[a-z0-9]+")
_SURROGATES_FROM = 0xD800
_SURROGATES = 0x800

RefuseAt = Literal["reaches", "exceeds"]


@dataclass(frozen=True)
class Decision:
    """What the filter said of one text.

    Attributes:
        kept: whether the text joined the pool.
        score: its highest ROUGE-L F with the pool before it, 0 to 1; 0 for an empty pool.
        nearest: id of the pool text with that score, the lowest on ties; None where score is 0.
    """

    kept: bool
    score: float
    nearest: str | None


def rouge_l(lcs: int, length: int, other: int) -> float:
    """ROUGE-L F of two texts by their LCS and token counts, rounded as `rouge_score` rounds."""
    if length == 0 or other == 0 or lcs == 0:
        return 0.0
    precision = lcs / other
    recall = lcs / length
    return 2 * precision * recall / (precision + recall)


class NoveltyFilter:
    """Keeps a pool of texts no two of which are too alike.

    Args:
        threshold: ROUGE-L F, 0 to 1.
        refuse_at: `reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold
            (Self-Instruct's code).
    """

    def __init__(self, threshold: float = 0.7, refuse_at: RefuseAt = "reaches") -> None:
        self.threshold = threshold
        self.refuse_at = refuse_at
        self._codes: dict[str, str] = {}
        self._ids: list[str] = []
        self._texts: list[str] = []

    def preload(self, texts: Sequence[tuple[str, str]]) -> None:
        """Put (id, text) pairs into the pool without asking whether they are novel."""
        for text_id, text in texts:
            self._ids.append(text_id)
            self._texts.append(self._encode(text))

    def accept(self, texts: Sequence[tuple[str, str]]) -> list[Decision]:
        """Decide on (id, text) pairs in order; each kept one is in the pool of the next."""
        return [self._decide(text_id, self._encode(text)) for text_id, text in texts]

    def _decide(self, text_id: str, text: str) -> Decision:
        score, nearest = self._nearest(text)
        at_threshold = self.refuse_at == "reaches" and score == self.threshold
        refused = score > self.threshold or at_threshold
        if not refused:
            self._ids.append(text_id)
            self._texts.append(text)
        return Decision(not refused, score, nearest)

    def _nearest(self, text: str) -> tuple[float, str | None]:
        if not self._texts or not text:
            return 0.0, None
        lengths = cdist([text], self._texts, scorer=LCSseq.similarity, dtype=np.uint32)[0]
        best, nearest = 0.0, None
        for place in np.flatnonzero(lengths):
            score = rouge_l(int(lengths[place]), len(self._texts[place]), len(text))
            if score > best or (
                score == best and nearest is not None and self._ids[place] < nearest
            ):
                best, nearest = score, self._ids[place]
        return best, nearest

    def _encode(self, text: str) -> str:
        """The text with one code point per token, so that LCS of strings is LCS of token lists."""
        codes = []
        for token in _TOKEN.findall(text.lower()):
            code = self._codes.get(token)
            if code is None:
                number = len(self._codes) + 1
                skipped = _SURROGATES if number >= _SURROGATES_FROM else 0
                code = self._codes[token] = chr(number + skipped)
            codes.append(code)
        return "".join(codes)
