"""Rows of JSONL, CSV and Parquet files, a batch at a time, and files of some of them.

A row goes through as it is: a line of JSONL keeps its bytes, a row of Parquet its types. Numbers
are what a person would look for: the line of JSONL and CSV (where a record begins), the row of
Parquet, from 1. This is a door for files of any size, so that unlike seed files they are not
checked as a whole first: reading ends at the first row that cannot be decided on, and names it.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_LONGEST_CELL = 1 << 30


class RowBatch(NamedTuple):
    """Some rows of a file.

    Attributes:
        numbers: line or row of each, from 1.
        texts: of the column that is asked about.
        rows: the rows themselves, in the file's own form.
    """

    numbers: list[int]
    texts: list[str]
    rows: Any


class RowFile:
    """A file of rows.

    Args:
        path: `.jsonl`, `.csv` or `.parquet`.
        column: the text column.

    Raises:
        RefineError: no such file, or of no known kind.
    """

    def __init__(self, path: Path, column: str) -> None:
        if not path.is_file():
            raise RefineError("no such file", where=str(path), fix="check the path")
        kinds: dict[str, type[_JsonLines | _CommaSeparated | _Parquet]] = {
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
        self.path = path
        self._rows = kind(path, column)

    def batches(self, size: int) -> Iterator[RowBatch]:
        """The rows in order, at most `size` at once.

        Raises:
            RefineError: a row without the text, or damage; names file and line.
        """
        return self._rows.batches(size)

    @contextmanager
    def like(self, path: Path) -> Iterator[Callable[[RowBatch, Sequence[bool]], None]]:
        """A new file of the same form: the function writes the chosen rows of a batch."""
        with self._rows.like(path) as write:
            yield write


class _JsonLines:
    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._column = column

    def batches(self, size: int) -> Iterator[RowBatch]:
        batch = RowBatch([], [], [])
        with self._path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                told = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
                if not told.strip():
                    continue
                batch.numbers.append(number)
                batch.texts.append(self._text(told, number))
                batch.rows.append(told if told.endswith(b"\n") else told + b"\n")
                if len(batch.texts) == size:
                    yield batch
                    batch = RowBatch([], [], [])
        if batch.texts:
            yield batch

    def _text(self, line: bytes, number: int) -> str:
        where = f"{self._path}, line {number}"
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
    def like(self, path: Path) -> Iterator[Callable[[RowBatch, Sequence[bool]], None]]:
        with path.open("wb") as stream:

            def write(batch: RowBatch, chosen: Sequence[bool]) -> None:
                stream.writelines(row for row, one in zip(batch.rows, chosen, strict=True) if one)

            yield write


class _CommaSeparated:
    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._column = column
        self._header: list[str] = []

    def batches(self, size: int) -> Iterator[RowBatch]:
        batch = RowBatch([], [], [])
        limit = csv.field_size_limit(_LONGEST_CELL)
        begin = 1
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as stream:
                rows = csv.reader(stream, strict=True)
                self._header = next(rows, [])
                place = self._place()
                begin = rows.line_num + 1
                for row in rows:
                    number, begin = begin, rows.line_num + 1
                    if not row:
                        continue
                    if len(row) != len(self._header):
                        raise RefineError(
                            f"{len(row)} cells, the header has {len(self._header)}",
                            where=f"{self._path}, line {number}",
                            fix='put cells that hold commas or line breaks in "quotation marks"',
                        )
                    batch.numbers.append(number)
                    batch.texts.append(row[place])
                    batch.rows.append(row)
                    if len(batch.texts) == size:
                        yield batch
                        batch = RowBatch([], [], [])
        except csv.Error as error:
            raise RefineError(
                f"broken CSV: {error}",
                where=f"{self._path}, line {begin}",
                fix="mend the quotation marks there",
            ) from error
        except UnicodeDecodeError as error:
            raise RefineError(
                "not UTF-8", where=f"{self._path}, after line {begin}", fix="save it as UTF-8"
            ) from error
        finally:
            csv.field_size_limit(limit)
        if batch.texts:
            yield batch

    def _place(self) -> int:
        if self._column not in self._header:
            raise _no_column(self._column, self._header, f"{self._path}, line 1")
        return self._header.index(self._column)

    @contextmanager
    def like(self, path: Path) -> Iterator[Callable[[RowBatch, Sequence[bool]], None]]:
        with path.open("w", encoding="utf-8", newline="") as stream:
            rows = csv.writer(stream)
            begun = False

            def begin() -> None:
                nonlocal begun
                if not begun and self._header:
                    rows.writerow(self._header)
                    begun = True

            def write(batch: RowBatch, chosen: Sequence[bool]) -> None:
                begin()
                rows.writerows(row for row, one in zip(batch.rows, chosen, strict=True) if one)

            yield write
            begin()


class _Parquet:
    def __init__(self, path: Path, column: str) -> None:
        self._path = path
        self._column = column
        self._file = self._opened()

    def batches(self, size: int) -> Iterator[RowBatch]:
        import pyarrow as pa

        names = self._file.schema_arrow.names
        if self._column not in names:
            raise _no_column(self._column, names, str(self._path))
        number = 0
        try:
            for rows in self._file.iter_batches(batch_size=size):
                numbers = list(range(number + 1, number + 1 + rows.num_rows))
                number += rows.num_rows
                texts = [
                    text
                    if isinstance(text, str)
                    else _checked(text, self._column, names, f"{self._path}, row {place}")
                    for place, text in zip(
                        numbers, rows.column(self._column).to_pylist(), strict=True
                    )
                ]
                yield RowBatch(numbers, texts, rows)
        except (pa.ArrowException, OSError) as error:
            raise RefineError(
                f"damaged Parquet: {error}",
                where=f"{self._path}, after row {number}",
                fix="write the file again",
            ) from error

    def _opened(self) -> ParquetFile:
        import pyarrow as pa
        from pyarrow.parquet import ParquetFile

        try:
            return ParquetFile(self._path)
        except (pa.ArrowException, OSError) as error:
            raise RefineError(
                f"not a Parquet file: {error}", where=str(self._path), fix="write the file again"
            ) from error

    @contextmanager
    def like(self, path: Path) -> Iterator[Callable[[RowBatch, Sequence[bool]], None]]:
        import pyarrow as pa
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(path, self._file.schema_arrow) as writer:

            def write(batch: RowBatch, chosen: Sequence[bool]) -> None:
                writer.write_batch(batch.rows.filter(pa.array(chosen)))

            yield write


def _checked(value: object, column: str, names: Sequence[str], where: str) -> str:
    if isinstance(value, str):
        return value
    if column not in names:
        raise _no_column(column, names, where)
    found = "null" if value is None else type(value).__name__
    raise RefineError(
        f"column `{column}` holds {found}, expected text", where=where, fix="remove or mend the row"
    )


def _no_column(column: str, names: Sequence[str], where: str) -> RefineError:
    known = ", ".join(f"`{name}`" for name in names) or "none"
    return RefineError(
        f"no column `{column}`; there are {known}", where=where, fix="name one with --column"
    )
