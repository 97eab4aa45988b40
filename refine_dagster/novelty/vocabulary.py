"""Tokens as `rouge_score` takes them, numbered, many texts at a time.

`rouge_score` lower-cases a text, takes its runs of [a-z0-9], and with the stemmer passes tokens of
more than three characters through NLTK's Porter stemmer. The same here for a whole batch in four
passes of C code: lower-case, join, map every byte that is no letter or digit to a space, split.
Texts are joined by the token `A`, which no lower-cased text has. Lower-casing goes first and is
Unicode's, as there: the Kelvin sign is a `k`, a dotted capital I starts with an `i`; what is not
ASCII afterwards separates tokens. The stemmer sees each distinct token once.

An array that grows at its end, at a constant cost per element.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.novelty.rouge import Ints

_BETWEEN = "A"
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789" + _BETWEEN.encode()
_TO_SPACES = bytes(byte if byte in _LETTERS else 32 for byte in range(256))
_STEMMED_FROM = 4
# Code points of surrogates stand for no token: strings that hold them cannot be decoded.
_SURROGATES_FROM = 0xD800
_SURROGATES = 0x800
_LAST_CODE_POINT = 0x10FFFF


class Tokens(NamedTuple):
    """Token numbers of several texts, end to end.

    Attributes:
        flat: int32, one number (from 1) a token.
        starts: int64, one more than texts: text i is `flat[starts[i]:starts[i + 1]]`.
    """

    flat: NDArray[np.int32]
    starts: Ints

    @property
    def lengths(self) -> Ints:
        """Tokens of each text."""
        return np.diff(self.starts)


class Encoder(Protocol):
    """Numbers the tokens of texts; equal tokens have equal numbers, from 1."""

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text; a text may have none."""


def joined(texts: Sequence[str]) -> bytes:
    """Lower-cased texts with the token `A` between them and a `?` for what is not ASCII."""
    return f" {_BETWEEN} ".join(map(str.lower, texts)).encode("ascii", "replace")


class Vocabulary:
    """Numbers tokens in the order in which they are first seen.

    Args:
        use_stemmer: NLTK's Porter stemmer on tokens longer than three characters.
    """

    def __init__(self, *, use_stemmer: bool = False) -> None:
        self._numbers: _Numbers = _StemNumbers() if use_stemmer else _Numbers()
        self._numbers[_BETWEEN.encode()] = 0

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text; a text may have none."""
        words = joined(texts).translate(_TO_SPACES).split()
        flat = np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words))
        between = np.flatnonzero(flat == 0)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        starts[1:-1] = between - np.arange(len(between))
        flat = flat[flat != 0]
        starts[-1:] = len(flat)
        return Tokens(flat, starts)


class _Numbers(dict[bytes, int]):
    """Token numbers; an unknown token gets the next."""

    def __missing__(self, token: bytes) -> int:
        number = self[token] = len(self)
        return number


class _StemNumbers(_Numbers):
    """Numbers of the stems of tokens; a stem of letters and digits is never empty."""

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        super().__init__()
        self._stem: Callable[[str], str] = PorterStemmer().stem
        self._stems: dict[str, int] = {}

    def __missing__(self, token: bytes) -> int:
        word = token.decode("ascii")
        stem = self._stem(word) if len(word) >= _STEMMED_FROM else word
        number = self._stems.setdefault(stem, len(self._stems) + 1)
        self[token] = number
        return number


def as_strings(tokens: Tokens) -> list[Sequence[int] | str]:
    """Each text with one code point per token, so that LCS of strings is LCS of token lists.

    A text with a number past the last code point becomes a list of integers, which rapidfuzz
    compares with the code points of strings.
    """
    codes = tokens.flat.astype(np.uint32)
    codes[codes >= _SURROGATES_FROM] += _SURROGATES
    starts = tokens.starts.tolist()
    spans = list(pairwise(starts))
    if not len(codes) or codes.max() <= _LAST_CODE_POINT:
        text = codes.astype("<u4").tobytes().decode("utf-32-le")
        return [text[start:end] for start, end in spans]
    lists = [codes[start:end].tolist() for start, end in spans]
    return [
        one if max(one, default=0) > _LAST_CODE_POINT else "".join(map(chr, one)) for one in lists
    ]


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
