"""Rows of tokens padded to one shape.

Rounding depends on the shapes of matrix products, so a result that must be a function of one row
alone needs a shape that the row alone decides: a length rounded up to a multiple of `BUCKET`, and
always `ROWS` rows, dummies among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

BUCKET = 64
ROWS = 16


@dataclass(frozen=True)
class Padded:
    """Token ids and attention mask, both int64 of shape (rows, length)."""

    ids: NDArray[np.int64]
    mask: NDArray[np.int64]

    def tensors(self, device: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and mask on a device."""
        import torch

        return torch.from_numpy(self.ids).to(device), torch.from_numpy(self.mask).to(device)


def pad_left(
    rows: Sequence[Sequence[int]],
    pad: int,
    *,
    shape: tuple[int, int] | None = None,
    shared: int = 0,
) -> Padded:
    """Rows that all end in the last column.

    Args:
        rows: token ids.
        pad: the padding token.
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
    """A length rounded up to a multiple of `BUCKET`."""
    return -(-tokens // BUCKET) * BUCKET
