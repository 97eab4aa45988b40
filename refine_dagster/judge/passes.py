"""Passes of fixed shape: texts in tokens laid out so that a score has one value.

A matrix product may add in another order when its shape changes, and the last digits of a score
change with it. A score becomes part of a row's content, so it must not depend on what else was
scored in the same call: every pass has the same number of rows and one of a few lengths, and rows
that nobody asked for fill it up.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Pass:
    """One batch, padded on the right.

    Attributes:
        texts: the texts that this pass answers for, at most as many as there are rows.
        ids: shape (rows, length), token ids, padding after the last token.
        mask: shape (rows, length), 1 for a token and 0 for padding.
    """

    texts: list[Tokens]
    ids: list[list[int]]
    mask: list[list[int]]


def passes(texts: Sequence[Tokens], rows: int, longest: int, pad: int) -> Iterator[Pass]:
    """Passes that answer for every different text once, short texts first.

    Args:
        texts: token ids; repeated texts are read once.
        rows: rows of every pass.
        longest: most tokens of a text.
        pad: the id that stands after the last token.

    Raises:
        ValueError: a text has no token, or more than `longest`.
    """
    waiting: dict[int, list[Tokens]] = {}
    for text in dict.fromkeys(texts):
        if not 0 < len(text) <= longest:
            raise ValueError(f"a text of {len(text)} tokens does not fit passes of {longest}")
        waiting.setdefault(_padded_length(len(text), longest), []).append(text)
    for length, ready in sorted(waiting.items()):
        for start in range(0, len(ready), rows):
            chunk = ready[start : start + rows]
            filled = chunk + [chunk[0]] * (rows - len(chunk))
            yield Pass(
                chunk,
                [[*text, *[pad] * (length - len(text))] for text in filled],
                [[1] * len(text) + [0] * (length - len(text)) for text in filled],
            )


def _padded_length(tokens: int, longest: int) -> int:
    return next((length for length in LENGTHS if tokens <= length < longest), longest)
