"""The header of a .gguf file: what the model is, its vocabulary, and whether the file is whole.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The package `gguf` takes ten
seconds for a header with 262,144 tokens and ends in a traceback where a file was cut off.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from refine_dagster.models.files import ModelError, is_lfs_pointer, lfs_pointer_error

MAGIC = b"GGUF"
VERSIONS = (2, 3)
# Codes of value types, and their formats in `struct`.
_FORMATS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


@dataclass(frozen=True)
class GgufFile:
    """A whole .gguf file.

    Attributes:
        metadata: key -> value; arrays are lists.
        tensors: names of its tensors.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: frozenset[str]

    @property
    def architecture(self) -> str:
        """llama.cpp's name of it."""
        return str(self.metadata.get("general.architecture"))


class _Header:
    """Reads values one after another."""

    def __init__(self, data: mmap) -> None:
        self._data = data
        self.at = len(MAGIC)

    def numbers(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        layout = f"<{count}{kind}"
        found = struct.unpack_from(layout, self._data, self.at)
        self.at += struct.calcsize(layout)
        return found

    def text(self) -> str:
        [length] = self.numbers("Q")
        start, self.at = self.at, self.at + length
        if self.at > len(self._data):
            raise EOFError
        return self._data[start : self.at].decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY:
            return self.numbers(_FORMATS[kind])[0]
        inner, count = self.numbers("I")[0], self.numbers("Q")[0]
        if inner in (_STRING, _ARRAY):
            return [self.value(inner) for _ in range(count)]
        return list(self.numbers(_FORMATS[inner], count))


def read_gguf(path: Path) -> GgufFile:
    """Read the header of a .gguf file and check that all its tensors are there.

    Raises:
        ModelError: it is no such file, or one that was cut off, or a part of a split model.
    """
    try:
        if is_lfs_pointer(path):
            raise lfs_pointer_error([path.name], where=str(path))
        with path.open("rb") as stream:
            if stream.read(len(MAGIC)) != MAGIC:
                raise ModelError("not a .gguf file", where=str(path), fix="name a .gguf file")
            with mmap(stream.fileno(), 0, access=ACCESS_READ) as data:
                return _read(path, data)
    except OSError as error:
        raise ModelError(
            f"cannot be read: {error.strerror}", where=str(path), fix="name a .gguf file"
        ) from error
    except (struct.error, EOFError) as error:
        raise _cut_off(path) from error
    except (KeyError, MemoryError) as error:
        raise ModelError(
            "the header of the .gguf file is damaged", where=str(path), fix="download it again"
        ) from error


def _read(path: Path, data: mmap) -> GgufFile:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    header = _Header(data)
    [version] = header.numbers("I")
    if version not in VERSIONS:
        raise ModelError(
            f"version {version} of the format is not read here",
            where=str(path),
            fix="convert the model again with a recent llama.cpp, for a little-endian machine",
        )
    tensor_count, key_count = header.numbers("Q", 2)
    metadata = {}
    for _ in range(key_count):
        key = header.text()
        metadata[key] = header.value(header.numbers("I")[0])
    parts = metadata.get("split.count", 0)
    if parts > 1:
        raise ModelError(
            f"one of {parts} parts of a model",
            where=str(path),
            fix="join the parts with llama.cpp's `llama-gguf-split --merge`",
        )
    names, end = set(), 0
    for _ in range(tensor_count):
        names.add(header.text())
        elements = 1
        for width in header.numbers("Q", header.numbers("I")[0]):
            elements *= width
        [kind] = header.numbers("I")
        block, block_bytes = GGML_QUANT_SIZES.get(GGMLQuantizationType(kind), (1, 0))
        end = max(end, header.numbers("Q")[0] + elements // block * block_bytes)
    alignment = metadata.get("general.alignment", _ALIGNMENT)
    if -(-header.at // alignment) * alignment + end > len(data):
        raise _cut_off(path)
    return GgufFile(path, metadata, frozenset(names))


def _cut_off(path: Path) -> ModelError:
    return ModelError("the .gguf file was cut off", where=str(path), fix="download it again")
