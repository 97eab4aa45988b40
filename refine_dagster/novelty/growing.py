"""An array that grows at its end, at a constant cost per element."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Growing:
    """A one-dimensional array with room to spare.

    Args:
        dtype: of the elements.
    """

    def __init__(self, dtype: type[np.generic]) -> None:
        self._array: NDArray[Any] = np.zeros(1024, dtype=dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> NDArray[Any]:
        """The elements so far, not copied; stale once the array grows."""
        return self._array[: self._length]

    @property
    def room(self) -> NDArray[Any]:
        """The elements and the room behind them, for code that writes there itself."""
        return self._array

    def count_in(self, length: int) -> None:
        """Take `length` elements, written through `room`, for the array's."""
        self._length = length

    def extend(self, values: NDArray[Any]) -> None:
        """Put elements at the end."""
        length = self._length + len(values)
        self.reserve(length)
        self._array[self._length : length] = values
        self._length = length

    def reserve(self, length: int) -> None:
        """Have room for `length` elements without counting them in."""
        if length > len(self._array):
            array = np.zeros(max(length, len(self._array) * 3 // 2), dtype=self._array.dtype)
            array[: self._length] = self._array[: self._length]
            self._array = array
