"""Tokens as `rouge_score` takes them, numbered, many texts at a time.

`rouge_score` lower-cases a text, takes its runs of [a-z0-9], and with the stemmer passes tokens of
more than three characters through NLTK's Porter stemmer. `Vocabulary` does this for a whole batch
in four passes of C code: lower-case (Unicode's rules), join, map every other byte to a space,
split. The separator between texts is the token `A`, which no lower-cased text contains. Texts of
the tokenizer `unicode` come with the bytes of their tokens as characters
(`tokenizers.encoding_reader`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.language import Reading
from refine_dagster.novelty.rouge import Ints
from refine_dagster.novelty.tokenizers import encoding_reader

_SEPARATOR = "A"
_LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789" + _SEPARATOR.encode() + bytes(range(128, 256))
_TO_SPACES = bytes(byte if byte in _LETTERS else 32 for byte in range(256))
_STEMMED_FROM = 4
# Code points of surrogates are not used: strings that contain them cannot be decoded.
_SURROGATES_FROM = 0xD800
_SURROGATES = 0x800
_LAST_CODE_POINT = 0x10FFFF


class Tokens(NamedTuple):
    """Token numbers of several texts, concatenated.

    Attributes:
        flat: int32 numbers, from 1.
        starts: int64, one more than texts: text i is `flat[starts[i]:starts[i + 1]]`.
    """

    flat: NDArray[np.int32]
    starts: Ints

    @property
    def lengths(self) -> Ints:
        """Tokens of each text."""
        return np.diff(self.starts)


class Encoder(Protocol):
    """Numbers the tokens of texts in the order in which they are first seen."""

    def encode(self, texts: Sequence[str]) -> Tokens:
        """The tokens of each text; a text may have none."""


class Vocabulary:
    """Encodes by Python's own string functions (implements `Encoder`)."""

    def __init__(self, *, use_stemmer: bool = False, reading: Reading = "rouge_score") -> None:
        self._read = encoding_reader(reading)
        self._numbers: _Numbers = _StemNumbers() if use_stemmer else _Numbers()
        self._numbers[_SEPARATOR.encode()] = 0

    def encode(self, texts: Sequence[str]) -> Tokens:
        plain = (text.lower() if text.isascii() else self._read(text) for text in texts)
        joined = f" {_SEPARATOR} ".join(plain).encode("latin-1")
        words = joined.translate(_TO_SPACES).split()
        flat = np.fromiter(map(self._numbers.__getitem__, words), np.int32, len(words))
        separators = np.flatnonzero(flat == 0)
        starts = np.zeros(len(texts) + 1, dtype=np.int64)
        starts[1:-1] = separators - np.arange(len(separators))
        flat = flat[flat != 0]
        starts[-1:] = len(flat)
        return Tokens(flat, starts)


class _Numbers(dict[bytes, int]):
    """Token numbers; an unknown token gets the next number."""

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
        word = token.decode()
        stem = self._stem(word) if len(word) >= _STEMMED_FROM and word.isascii() else word
        number = self._stems.setdefault(stem, len(self._stems) + 1)
        self[token] = number
        return number


def as_strings(tokens: Tokens) -> list[Sequence[int] | str]:
    """Each text with one code point per token, so that LCS of strings is LCS of token lists.

    A text with a number beyond the last code point becomes a list of integers, which rapidfuzz
    compares with the code points of strings.
    """
    codes = tokens.flat.astype(np.uint32)
    codes[codes >= _SURROGATES_FROM] += _SURROGATES
    starts = tokens.starts.tolist()
    spans = list(pairwise(starts))
    if not len(codes) or codes.max() <= _LAST_CODE_POINT:
        whole = codes.astype("<u4").tobytes().decode("utf-32-le")
        return [whole[start:end] for start, end in spans]
    lists = [codes[start:end].tolist() for start, end in spans]
    return [
        text if max(text, default=0) > _LAST_CODE_POINT else "".join(map(chr, text))
        for text in lists
    ]


class Growing:
    """A one-dimensional array that grows at its end, at a constant cost per element."""

    def __init__(self, dtype: type[np.generic]) -> None:
        self._array: NDArray[Any] = np.zeros(1024, dtype=dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def view(self) -> NDArray[Any]:
        """The elements, not copied; stale once the array grows."""
        return self._array[: self._length]

    @property
    def room(self) -> NDArray[Any]:
        """The elements and the reserved room behind them, for code that writes there itself."""
        return self._array

    def set_length(self, length: int) -> None:
        """Set the length after elements were written through `room`."""
        self._length = length

    def extend(self, values: NDArray[Any]) -> None:
        """Append elements."""
        length = self._length + len(values)
        self.reserve(length)
        self._array[self._length : length] = values
        self._length = length

    def reserve(self, length: int) -> None:
        """Make room for `length` elements in all."""
        if length > len(self._array):
            array = np.zeros(max(length, len(self._array) * 3 // 2), dtype=self._array.dtype)
            array[: self._length] = self._array[: self._length]
            self._array = array
