"""The file formats of seeds, each read as plain records with their line numbers.

CSV is read by the standard library, which knows the line of every record. Parquet is read by
pyarrow, which raises an exception for a damaged file, where polars may abort the process.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from types import MappingProxyType

from refine_dagster.seeds.problems import Findings, shown
from refine_dagster.seeds.records import KNOWN_FIELDS, Record, kind
from refine_dagster.seeds.text import decode, json_value, skip_blanks

TEXT_COLUMNS = ("id", "name", "instruction", "input", "output")
REQUIRED_COLUMNS = ("instruction", "output")


def jsonl_records(data: bytes, findings: Findings) -> list[Record]:
    """One JSON object a line; blank lines are skipped, and lines after a broken one are read."""
    decoded = decode(data, findings)
    records: list[Record] = []
    for number, line in enumerate(decoded.text.split("\n"), 1):
        start = skip_blanks(line, 0)
        if start == len(line) or number in decoded.bad_lines:
            continue
        if "\0" in line:
            at = line.index("\0") + 1
            findings.error(number, None, f"NUL character at character {at}", "remove it")
            continue
        parsed = json_value(line, start, number, findings)
        if parsed is None:
            continue
        value, end = parsed
        if skip_blanks(line, end) < len(line):
            message = f"broken JSON: text after the object, from character {end + 1}"
            findings.error(number, None, message, "write one object a line")
            continue
        _add_object(value, number, records, findings)
    return records


def json_records(data: bytes, findings: Findings) -> list[Record]:
    """A JSON list of objects (Alpaca's format); reading ends at a syntax error."""
    text = decode(data, findings).text
    records: list[Record] = []
    position = skip_blanks(text, 0)
    line = 1 + text.count("\n", 0, position)
    if position == len(text):
        return records
    if text[position] != "[":
        fix = (
            "write [...], name a file of one object a line .jsonl, and give the folder of a "
            "SUPER-NI task file"
        )
        findings.error(line, None, "expected a list of tasks", fix)
        return records
    closed, position = False, position + 1
    while not closed:
        begin = skip_blanks(text, position)
        line += text.count("\n", position, begin)
        if not records and text[begin : begin + 1] == "]":
            position, closed = begin + 1, True
            continue
        parsed = json_value(text, begin, line, findings)
        if parsed is None:
            findings.note(line, None, "the rest of the list was not read", "fix the error first")
            return records
        value, end = parsed
        _add_object(value, line, records, findings)
        position = skip_blanks(text, end)
        line += text.count("\n", begin, position)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            findings.error(
                line, None, "broken JSON: expected a comma or the end of the list", "fix it there"
            )
            findings.note(line, None, "the rest of the list was not read", "fix the error first")
            return records
        position, closed = position + 1, mark == "]"
    rest = skip_blanks(text, position)
    if rest < len(text):
        line += text.count("\n", position, rest)
        findings.error(line, None, "text after the end of the list", "remove what follows")
    return records


def csv_records(data: bytes, findings: Findings) -> list[Record]:
    """Comma-separated cells under a header line; quoted cells may hold commas and line breaks."""
    text = decode(data, findings).text
    rows = csv.reader(io.StringIO(text, newline=""), strict=True)
    records: list[Record] = []
    header: list[str] | None = None
    line = 1
    limit = csv.field_size_limit(max(len(text), 1))  # `records` reports long cells
    try:
        for row in rows:
            start, line = line, rows.line_num + 1
            if not row:
                continue
            if header is None:
                header = [name.strip() for name in row]
                if not _header_is_sound(header, start, findings):
                    return records
            elif len(row) != len(header):
                message = f"{len(row)} cells, the header has {len(header)}"
                fix = 'put cells that hold commas or line breaks in "quotation marks"'
                findings.error(start, None, message, fix)
            else:
                records.append(Record(start, dict(zip(header, row, strict=True))))
    except csv.Error as error:
        findings.error(line, None, f"broken CSV: {error}", "correct the quotation marks there")
        findings.note(line, None, "the rest of the file was not read", "fix the error first")
    finally:
        csv.field_size_limit(limit)
    return records


def parquet_records(data: bytes, findings: Findings) -> list[Record]:
    """Rows of a Parquet file with text columns; `line` is the row, from 1."""
    import pyarrow
    from pyarrow import parquet

    if not data:
        return []
    try:
        file = parquet.ParquetFile(pyarrow.BufferReader(data))
        schema = file.schema_arrow
        header_is_sound = _header_is_sound(list(schema.names), None, findings)
        if not header_is_sound or not _column_types_are_sound(schema, findings):
            return []
        names = [name for name in schema.names if name in KNOWN_FIELDS]
        table = file.read(columns=names, use_threads=False)
        table.validate(full=True)
        rows = table.to_pylist()
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:
        reason = shown(str(error), 120)
        findings.error(None, None, f"not a sound Parquet file: {reason}", "write the file again")
        return []
    return [Record(number, row) for number, row in enumerate(rows, 1)]


def _add_object(value: object, line: int, records: list[Record], findings: Findings) -> None:
    if isinstance(value, dict):
        records.append(Record(line, value))
    else:
        fix = 'write {"instruction": "...", "input": "...", "output": "..."}'
        findings.error(line, None, f"expected an object, found {kind(value)}", fix)


def _header_is_sound(names: list[str], line: int | None, findings: Findings) -> bool:
    sound = True
    for name in sorted({name for name in names if name and names.count(name) > 1}):
        findings.error(line, shown(name, 40), "two columns of this name", "rename one of them")
        sound = False
    missing = [name for name in REQUIRED_COLUMNS if name not in names]
    if "instances" in names and "output" in missing:
        missing.remove("output")
    for name in missing:
        there = ", ".join(shown(other, 20) for other in names[:8])
        fix = f"name the column `{name}`"
        if len(names) == 1 and any(mark in names[0] for mark in ";\t"):
            fix = "separate the cells with commas"
        findings.error(line, name, f"no such column; the columns are: {there}", fix)
        sound = False
    return sound


def _column_types_are_sound(schema: object, findings: Findings) -> bool:
    from pyarrow import types

    sound = True
    for column in schema:  # type: ignore[attr-defined]
        held = column.type.value_type if types.is_dictionary(column.type) else column.type
        text_types = (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
        is_text = any(is_type(held) for is_type in text_types)
        if column.name in TEXT_COLUMNS and not is_text:
            message = f"expected text, found {held}"
            findings.error(None, column.name, message, "store the column as text")
            sound = False
    return sound


Reader = Callable[[bytes, Findings], list[Record]]
# Extension -> (reader, prefix of derived ids, whether cells are only text).
FORMATS: MappingProxyType[str, tuple[Reader, str, bool]] = MappingProxyType(
    {
        ".jsonl": (jsonl_records, "jsonl", False),
        ".json": (json_records, "alpaca", False),
        ".csv": (csv_records, "csv", True),
        ".parquet": (parquet_records, "parquet", False),
    }
)
