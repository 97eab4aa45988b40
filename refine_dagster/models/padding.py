"""Rows of tokens padded to one shape, and passes of fixed shape.

Rounding depends on the shapes of matrix products, so a result that must be a function of one row
alone needs a shape that the row alone decides. In decoding it is a length rounded up to a multiple
of `BUCKET`, and always `ROWS` rows, dummies among them. In scoring a pass has one of a few lengths,
and as many rows as that length decides; copies of its first text fill it up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
Tokens = tuple[int, ...]
BUCKET = 64
ROWS = 16
# Lengths of passes.
LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048)


@dataclass(frozen=True)
class Padded:
    """Token ids and attention mask, both int64 of shape (rows, length)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]

    def tensors(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        return torch.from_numpy(self.ids).to(device), torch.from_numpy(self.mask).to(device)


def pad_left(
    rows: Sequence[Sequence[int]],
    pad: int,
    *,
    shape: tuple[int, int] | None = None,
    shared: int = 0,
) -> Padded:
    """Rows of token ids that all end in the last column.

    Args:
        shape: (rows, length), at least those of `rows`; None takes theirs. A dummy row is one
            padding token, which may see itself.
        shared: tokens that all rows begin with and that stay on the left, before the padding.
    """
    height, length = shape or (len(rows), max(map(len, rows)))
    ids = np.full((height, length), pad, dtype=np.int64)
    mask = np.zeros((height, length), dtype=np.int64)
    mask[len(rows) :, -1] = 1
    for number, row in enumerate(rows):
        rest = length - len(row) + shared
        ids[number, :shared], mask[number, :shared] = row[:shared], 1
        ids[number, rest:], mask[number, rest:] = row[shared:], 1
    return Padded(ids, mask)


def pad_right(rows: Sequence[Sequence[int]], pad: int, length: int | None = None) -> Padded:
    """Rows that all begin in the first column; as long as the longest, or `length`."""
    shape = None if length is None else (len(rows), length)
    mirrored = pad_left([row[::-1] for row in rows], pad, shape=shape)
    return Padded(mirrored.ids[:, ::-1].copy(), mirrored.mask[:, ::-1].copy())


def positions(mask: torch.Tensor) -> torch.Tensor:
    """Each token's position in its row, padding not counted; shape of the mask."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def padded_length(tokens: int) -> int:
    return -(-tokens // BUCKET) * BUCKET


@dataclass(frozen=True)
class Pass(Generic[T]):
    """One batch: the texts that it answers for; its rows are these and copies of the first."""

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
        sizes: text -> its tokens, from 1 to `longest`.
        rows: length of a pass -> its rows.
        lengths: those of passes, ascending; `longest` is another.
    """
    waiting: dict[int, list[T]] = {}
    for text, tokens in sizes.items():
        if not 0 < tokens <= longest:
            raise ValueError(f"a text of {tokens} tokens does not fit passes of {longest}")
        waiting.setdefault(pass_length(tokens, longest, lengths), []).append(text)
    for length, texts in sorted(waiting.items()):
        count = rows(length)
        for start in range(0, len(texts), count):
            chunk = texts[start : start + count]
            yield Pass(chunk, chunk + [chunk[0]] * (count - len(chunk)), length)


def pass_length(tokens: int, longest: int, lengths: Sequence[int] = LENGTHS) -> int:
    """The shortest of the lengths, or `longest`, that has room for `tokens`."""
    return next((length for length in lengths if tokens <= length < longest), longest)


def score_tokens(
    texts: Sequence[Tokens],
    rows: int,
    longest: int,
    pad: int,
    device: str,
    read: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> list[float]:
    """The score of each text of token ids, in order; equal texts are read once.

    `read` takes ids and mask, both of shape (`rows`, length), on the device, the mask 1 for a token
    and 0 for padding, and gives a score a row, on the CPU.
    """
    import torch

    scores: dict[Tokens, float] = {}
    for batch in passes({text: len(text) for text in texts}, lambda _: rows, longest):
        with torch.no_grad():
            values = read(*pad_right(batch.rows, pad, batch.length).tensors(device))
        scores.update(zip(batch.texts, values[: len(batch.texts)].tolist(), strict=True))
    return [scores[text] for text in texts]
