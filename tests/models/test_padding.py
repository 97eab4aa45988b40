"""Padded rows keep their tokens where the shape says, and padding does not count."""

from __future__ import annotations

import pytest
import torch

from refine_dagster.models.padding import pad_left, pad_right, padded_length, positions

ROWS = [[5, 6, 7], [8]]


def test_rows_end_or_begin_together() -> None:
    left, right = pad_left(ROWS, 0), pad_right(ROWS, 0)
    assert left.ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert left.mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert right.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert right.mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert pad_right(ROWS, 9, 5).ids.tolist() == [[5, 6, 7, 9, 9], [8, 9, 9, 9, 9]]


def test_a_fixed_shape_has_dummy_rows_of_one_token() -> None:
    padded = pad_left(ROWS, 0, shape=(4, 5))
    assert padded.ids.shape == padded.mask.shape == (4, 5)
    assert padded.mask.sum(axis=1).tolist() == [3, 1, 1, 1]
    assert padded.mask[:, -1].tolist() == [1, 1, 1, 1]


def test_a_shared_start_stays_on_the_left() -> None:
    padded = pad_left([[1, 2, 3, 4], [1, 2, 5]], 0, shared=2)
    assert padded.ids.tolist() == [[1, 2, 3, 4], [1, 2, 0, 5]]
    assert positions(torch.from_numpy(padded.mask)).tolist() == [[0, 1, 2, 3], [0, 1, 1, 2]]


@pytest.mark.parametrize(("tokens", "length"), [(1, 64), (64, 64), (65, 128)])
def test_lengths_are_rounded_up(tokens: int, length: int) -> None:
    assert padded_length(tokens) == length
