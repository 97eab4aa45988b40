"""Rows of JSONL, CSV and Parquet files in batches, and new files with some of the rows.

A row is written as it was read: a line of JSONL keeps its bytes, a row of Parquet its types. Rows
are numbered from 1: by the line of JSONL and CSV (where a record begins), by the row of Parquet.
Reading ends at the first row that cannot be used, with an error that names it.
"""

from __future__ import annotations

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import compress, islice
from pathlib import Path
from typing import Any, NamedTuple

from refine_dagster.errors import RefineError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_CELL = 1 << 30


class RowBatch(NamedTuple):
    """Some rows of a file: their numbers, texts, and the rows in the file's own form."""

    numbers: list[int]
    texts: list[str]
    rows: Any


Write = Callable[[RowBatch, Sequence[bool]], None]


class RowFile(ABC):
    """A file with a text column; `row_file` opens one."""

    def __init__(self, path: Path, column: str) -> None:
        self.path = path
        self._column = column

    @abstractmethod
    def batches(self, size: int) -> Iterator[RowBatch]:
        """The rows in order, at most `size` at a time.

        Raises:
            RefineError: a row has no text or is damaged; names file and line.
        """

    @abstractmethod
    def like(self, path: Path) -> AbstractContextManager[Write]:
        """Open a new file of the same form; the function writes a batch's rows chosen by a mask."""


def row_file(path: Path, column: str) -> RowFile:
    """A `.jsonl`, `.csv` or `.parquet` file with a text column."""
    if not path.is_file():
        raise RefineError("no such file", where=str(path), fix="check the path")
    kinds: dict[str, Callable[[Path, str], RowFile]] = {
        ".jsonl": _JsonLines,
        ".csv": _CommaSeparated,
        ".parquet": _Parquet,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise RefineError(
            f"unknown extension `{path.suffix}`",
            where=str(path),
            fix=f"convert it to one of {', '.join(kinds)}",
        )
    return kind(path, column)


def _batched(rows: Iterable[tuple[int, str, Any]], size: int) -> Iterator[RowBatch]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, size)):
        yield RowBatch(*map(list, zip(*chunk, strict=True)))


class _JsonLines(RowFile):
    def batches(self, size: int) -> Iterator[RowBatch]:
        return _batched(self._read(), size)

    def _read(self) -> Iterator[tuple[int, str, bytes]]:
        with self.path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(_BYTE_ORDER_MARK)
                if line.strip():
                    row = line if line.endswith(b"\n") else line + b"\n"
                    yield number, self._text(line, number), row

    def _text(self, line: bytes, number: int) -> str:
        where = f"{self.path}, line {number}"
        try:
            row = json.loads(line)
        except UnicodeDecodeError as error:
            raise RefineError(
                f"not UTF-8: byte {error.start + 1} of the line",
                where=where,
                fix="save it as UTF-8",
            ) from error
        except ValueError as error:
            raise RefineError(
                f"broken JSON: {error}", where=where, fix="write one object a line"
            ) from error
        if not isinstance(row, dict):
            raise RefineError("not a JSON object", where=where, fix="write one object a line")
        return _checked(row.get(self._column), self._column, list(row), where)

    @contextmanager
    def like(self, path: Path) -> Iterator[Write]:
        with path.open("wb") as stream:
            yield lambda batch, mask: stream.writelines(compress(batch.rows, mask))


class _CommaSeparated(RowFile):
    _header: Sequence[str] = ()

    def batches(self, size: int) -> Iterator[RowBatch]:
        return _batched(self._read(), size)

    def _read(self) -> Iterator[tuple[int, str, list[str]]]:
        limit = csv.field_size_limit(_LONGEST_CELL)
        begin = 1
        try:
            with self.path.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.reader(stream, strict=True)
                self._header = next(rows, [])
                if self._column not in self._header:
                    raise _no_column(self._column, self._header, f"{self.path}, line 1")
                index = self._header.index(self._column)
                begin = rows.line_num + 1
                for row in rows:
                    number, begin = begin, rows.line_num + 1
                    if not row:
                        continue
                    if len(row) != len(self._header):
                        raise RefineError(
                            f"{len(row)} cells, the header has {len(self._header)}",
                            where=f"{self.path}, line {number}",
                            fix='put cells that hold commas or line breaks in "quotation marks"',
                        )
                    yield number, row[index], row
        except csv.Error as error:
            raise RefineError(
                f"broken CSV: {error}",
                where=f"{self.path}, line {begin}",
                fix="correct the quotation marks there",
            ) from error
        except UnicodeDecodeError as error:
            raise RefineError(
                "not UTF-8", where=f"{self.path}, after line {begin}", fix="save it as UTF-8"
            ) from error
        finally:
            csv.field_size_limit(limit)

    @contextmanager
    def like(self, path: Path) -> Iterator[Write]:
        with path.open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            with_header = False

            # The header is known once the first batch has been read.
            def write_header() -> None:
                nonlocal with_header
                if not with_header and self._header:
                    rows.writerow(self._header)
                    with_header = True

            def write(batch: RowBatch, mask: Sequence[bool]) -> None:
                write_header()
                rows.writerows(compress(batch.rows, mask))

            yield write
            write_header()


class _Parquet(RowFile):
    def __init__(self, path: Path, column: str) -> None:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        super().__init__(path, column)
        try:
            self._file = ParquetFile(path)
        except (pa.ArrowException, OSError) as error:
            raise RefineError(
                f"not a Parquet file: {error}", where=str(path), fix="write the file again"
            ) from error

    def batches(self, size: int) -> Iterator[RowBatch]:
        import pyarrow as pa

        names = self._file.schema_arrow.names
        if self._column not in names:
            raise _no_column(self._column, names, str(self.path))
        last = 0
        try:
            for rows in self._file.iter_batches(batch_size=size):
                numbers = list(range(last + 1, last + 1 + rows.num_rows))
                last += rows.num_rows
                values = rows.column(self._column).to_pylist()
                texts = [
                    _checked(value, self._column, names, f"{self.path}, row {number}")
                    for number, value in zip(numbers, values, strict=True)
                ]
                yield RowBatch(numbers, texts, rows)
        except (pa.ArrowException, OSError) as error:
            raise RefineError(
                f"damaged Parquet: {error}",
                where=f"{self.path}, after row {last}",
                fix="write the file again",
            ) from error

    @contextmanager
    def like(self, path: Path) -> Iterator[Write]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(path, self._file.schema_arrow) as writer:
            yield lambda batch, mask: writer.write_batch(batch.rows.filter(pa.array(mask)))


def _checked(value: object, column: str, names: Sequence[str], where: str) -> str:
    if isinstance(value, str):
        return value
    if column not in names:
        raise _no_column(column, names, where)
    kind = "null" if value is None else type(value).__name__
    raise RefineError(
        f"column `{column}` holds {kind}, expected text",
        where=where,
        fix="correct or remove the row",
    )


def _no_column(column: str, names: Sequence[str], where: str) -> RefineError:
    known = ", ".join(f"`{name}`" for name in names) or "none"
    return RefineError(
        f"no column `{column}`; there are {known}", where=where, fix="choose one with --column"
    )
