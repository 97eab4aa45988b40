"""What the novelty filter says of one text, and the words in which it is asked."""

from __future__ import annotations

from typing import Literal, NamedTuple

RefuseAt = Literal["reaches", "exceeds"]
"""`reaches` refuses F >= threshold (REFINE-AF), `exceeds` only F > threshold (Self-Instruct)."""

NearestOf = Literal["refused", "all"]
"""Of which texts the nearest is sought: of the refused ones only, or of the kept ones too."""

Key = int | str
"""What texts go by: their position in everything that the filter was given, or a caller's id."""


class Decision(NamedTuple):
    """What the filter said of one text.

    Attributes:
        kept: whether the text joined the pool.
        score: its highest ROUGE-L F with the pool before it, 0 to 1. None where the text is kept
            and the filter looks for the nearest of refused texts only: the score is then known to
            be below the threshold, and no more.
        nearest: key of the pool text with that score, the lowest on ties; None where score is None
            or 0.
    """

    kept: bool
    score: float | None
    nearest: Key | None
