"""Passes of fixed shape, so that a text has one score whatever else is scored with it.

A matrix product may add in another order when its shape changes, and the last digits of a score
change with it; a score becomes part of a row's content. So every pass has one of a few lengths, and
as many rows as that length decides; copies of its first text fill it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from refine_dagster.models.padding import pad_right

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")
Tokens = tuple[int, ...]
LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Pass(Generic[T]):
    """One batch.

    Attributes:
        texts: the texts that it answers for.
        rows: these texts, then copies of the first.
        length: tokens of a row, padding included.
    """

    texts: list[T]
    rows: list[T]
    length: int


def passes(
    sizes: Mapping[T, int],
    rows: Callable[[int], int],
    longest: int,
    lengths: Sequence[int] = LENGTHS,
) -> Iterator[Pass[T]]:
    """Passes that answer for every text once, short texts first.

    Args:
        sizes: text -> its tokens.
        rows: length of a pass -> its rows.
        longest: most tokens of a text; also the last length.
        lengths: the other lengths, ascending.

    Raises:
        ValueError: a text has no token, or more than `longest`.
    """
    waiting: dict[int, list[T]] = {}
    for text, tokens in sizes.items():
        if not 0 < tokens <= longest:
            raise ValueError(f"a text of {tokens} tokens does not fit passes of {longest}")
        waiting.setdefault(padded_length(tokens, longest, lengths), []).append(text)
    for length, texts in sorted(waiting.items()):
        count = rows(length)
        for start in range(0, len(texts), count):
            chunk = texts[start : start + count]
            yield Pass(chunk, chunk + [chunk[0]] * (count - len(chunk)), length)


def padded_length(tokens: int, longest: int, lengths: Sequence[int] = LENGTHS) -> int:
    """The shortest of the lengths, or `longest`, that has room for `tokens`."""
    return next((length for length in lengths if tokens <= length < longest), longest)


def score_tokens(
    texts: Sequence[Tokens],
    rows: int,
    longest: int,
    pad: int,
    device: str,
    read: Callable[[Tensor, Tensor], Tensor],
) -> list[float]:
    """The score of each text, in order; equal texts are read once.

    Args:
        texts: token ids.
        rows: rows of every pass.
        longest: most tokens of a text.
        pad: the id after a text's last token.
        device: where the model is.
        read: token ids and mask, both of shape (rows, length), the mask 1 for a token and 0 for
            padding -> a score a row, on the CPU.
    """
    import torch

    found: dict[Tokens, float] = {}
    for batch in passes({text: len(text) for text in texts}, lambda _: rows, longest):
        with torch.no_grad():
            scores = read(*pad_right(batch.rows, pad, batch.length).tensors(device))
        found.update(zip(batch.texts, scores[: len(batch.texts)].tolist(), strict=True))
    return [found[text] for text in texts]
