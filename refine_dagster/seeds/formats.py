"""The file formats of seeds, each read as records with their line numbers.

CSV is read by the standard library, which knows the line of every record. Parquet is read by
pyarrow, which raises an exception for a damaged file, where polars may abort the process.
"""

from __future__ import annotations

import csv
import io
import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from dataclasses import dataclass, field
from types import MappingProxyType

from refine_dagster.prompts.example import number_text
from refine_dagster.seeds.problems import Findings, shown
from refine_dagster.seeds.records import (
    ID_DIGITS,
    KNOWN_FIELDS,
    Record,
    check_text,
    kind,
    read_instance,
)
from refine_dagster.seeds.task import SeedInstance, SeedTask, normal_line, task_content

TEXT_COLUMNS = ("id", "name", "instruction", "input", "output")
REQUIRED_COLUMNS = ("instruction", "output")
# Of a SUPER-NI task file without positive examples, so many instances are taken.
MAX_INSTANCES = 5
LABELLED_INSTANCES = 4
_LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True)
class _Text:
    """A decoded file with LF line ends; `bad_lines` (from 1) contain replacement characters."""

    text: str
    bad_lines: frozenset[int] = field(default_factory=frozenset)


def _decode(data: bytes, findings: Findings) -> _Text:
    """The text of a UTF-8 file; a byte order mark is dropped with a note, CRLF becomes LF.

    Every line with a byte that is not UTF-8 is an error that names the byte's offset in the file.
    A UTF-16 file is one error and gives no text.
    """
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        findings.error(None, None, "encoded as UTF-16", "save the file as UTF-8")
        return _Text("")
    body = data.removeprefix(BOM_UTF8)
    skipped = len(data) - len(body)
    if skipped:
        findings.note(1, None, "begins with a byte order mark", "nothing to do, it is ignored")
    bad: set[int] = set()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        start = 0
        for number, end in enumerate([*_LINE_END.finditer(body), None], 1):
            try:
                body[start : end.start() if end else None].decode("utf-8")
            except UnicodeDecodeError as error:
                offset = start + error.start
                byte = f"byte 0x{body[offset]:02x} at byte {offset + skipped} of the file"
                findings.error(number, None, f"not UTF-8: {byte}", "save the file as UTF-8")
                bad.add(number)
            start = end.end() if end else start
    return _Text(text.replace("\r\n", "\n").replace("\r", "\n"), frozenset(bad))


class _RepeatedFieldError(ValueError):
    """An object of the file has one field twice."""


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        repeated = next(name for name in names if names.count(name) > 1)
        raise _RepeatedFieldError(f"the field `{shown(repeated, 40)}` is there twice")
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_object)
_BLANKS = re.compile(r"[ \t\n]*")


def _skip_blanks(text: str, start: int) -> int:
    """The first position from `start` that is no JSON white space."""
    blanks = _BLANKS.match(text, start)
    return blanks.end() if blanks else start


def _json_value(text: str, start: int, line: int, findings: Findings) -> tuple[object, int] | None:
    """The JSON value at `start` (on line `line`) and its end; None with an error."""
    fix = "correct the JSON there"
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        at = line + text.count("\n", start, error.pos)
        what = "NUL character" if text[error.pos : error.pos + 1] == "\0" else error.msg
        findings.error(at, None, f"broken JSON: {what} at character {error.colno}", fix)
    except RecursionError:
        findings.error(line, None, "broken JSON: nested too deeply", "write plain text fields")
    except _RepeatedFieldError as error:
        findings.error(line, None, str(error), "keep one of them")
    except ValueError:
        findings.error(line, None, "broken JSON: a number with too many digits", fix)
    return None


def _whole_json(text: str, findings: Findings) -> object | None:
    """The JSON value of a file; None where it has none, with an error unless the file is blank."""
    start = _skip_blanks(text, 0)
    if start == len(text):
        return None
    line = 1 + text.count("\n", 0, start)
    parsed = _json_value(text, start, line, findings)
    if parsed is None:
        return None
    value, end = parsed
    end = _skip_blanks(text, end)
    if end < len(text):
        at = 1 + text.count("\n", 0, end)
        findings.error(at, None, "broken JSON: text after the end", "remove what follows")
        return None
    return value


def jsonl_records(data: bytes, findings: Findings) -> list[Record]:
    """One JSON object a line; blank lines are skipped, and lines after a broken one are read."""
    decoded = _decode(data, findings)
    records: list[Record] = []
    for number, line in enumerate(decoded.text.split("\n"), 1):
        start = _skip_blanks(line, 0)
        if start == len(line) or number in decoded.bad_lines:
            continue
        if "\0" in line:
            at = line.index("\0") + 1
            findings.error(number, None, f"NUL character at character {at}", "remove it")
            continue
        parsed = _json_value(line, start, number, findings)
        if parsed is None:
            continue
        value, end = parsed
        if _skip_blanks(line, end) < len(line):
            message = f"broken JSON: text after the object, from character {end + 1}"
            findings.error(number, None, message, "write one object a line")
            continue
        _add_object(value, number, records, findings)
    return records


def json_records(data: bytes, findings: Findings) -> list[Record]:
    """A JSON list of objects (Alpaca's format); reading ends at a syntax error."""
    text = _decode(data, findings).text
    records: list[Record] = []
    position = _skip_blanks(text, 0)
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
        begin = _skip_blanks(text, position)
        line += text.count("\n", position, begin)
        if not records and text[begin : begin + 1] == "]":
            position, closed = begin + 1, True
            continue
        parsed = _json_value(text, begin, line, findings)
        if parsed is None:
            findings.note(line, None, "the rest of the list was not read", "fix the error first")
            return records
        value, end = parsed
        _add_object(value, line, records, findings)
        position = _skip_blanks(text, end)
        line += text.count("\n", begin, position)
        mark = text[position : position + 1]
        if mark not in (",", "]"):
            findings.error(
                line, None, "broken JSON: expected a comma or the end of the list", "fix it there"
            )
            findings.note(line, None, "the rest of the list was not read", "fix the error first")
            return records
        position, closed = position + 1, mark == "]"
    rest = _skip_blanks(text, position)
    if rest < len(text):
        line += text.count("\n", position, rest)
        findings.error(line, None, "text after the end of the list", "remove what follows")
    return records


def csv_records(data: bytes, findings: Findings) -> list[Record]:
    """Comma-separated cells under a header line; quoted cells may hold commas and line breaks."""
    text = _decode(data, findings).text
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


def task_file_seed(data: bytes, stem: str, findings: Findings) -> SeedTask | None:
    """The seed of a SUPER-NI task file named `stem`; None (and findings) where it has an error.

    `Positive Examples` become the instances. `Instances` are what the SUPER-NI protocol scores
    (docs/methods.md, section 4.1); the first of them serve only where there are no examples.
    """
    text = _decode(data, findings).text
    value = _whole_json(text, findings)
    if findings.has_error:
        return None
    if not isinstance(value, dict):
        actual = "nothing" if value is None else kind(value)
        fix = "write a SUPER-NI task file, or move the file out of the folder"
        findings.error(1, None, f"expected one object, found {actual}", fix)
        return None
    instruction = _definition(value, _line(text, "Definition"), findings)
    examples = value.get("Positive Examples")
    section = "Positive Examples" if examples else "Instances"
    line = _line(text, section)
    items = value.get(section)
    if not isinstance(items, list) or not items:
        actual = "none" if not items else kind(items)
        fix = 'add `Positive Examples`: [{"input": "...", "output": "..."}]'
        findings.error(line, section, f"expected a list of examples, found {actual}", fix)
        return None
    if section == "Instances":
        items = items[:MAX_INSTANCES]
    instances = tuple(
        read_instance(_with_first_output(item), f"{section}[{index}]", line, findings)
        for index, item in enumerate(items)
    )
    if findings.has_error:
        return None
    seed_id = normal_line(stem) or f"task-{task_content(instruction, instances)[:ID_DIGITS]}"
    return SeedTask(seed_id, seed_id, instruction, instances, _is_classification(value, instances))


def _definition(task: dict[str, object], line: int, findings: Findings) -> str:
    if "Definition" not in task:
        findings.error(line, "Definition", "missing", "add `Definition`, what the task asks for")
        return ""
    definition = task["Definition"]
    if isinstance(definition, list) and definition:
        definition = definition[0]  # as SUPER-NI's own code reads it
    return check_text(definition, line, "Definition", findings, required=True)


def _with_first_output(item: object) -> object:
    """An example with its first output; a number is read as its text."""
    if not isinstance(item, dict):
        return item
    output = item.get("output")
    if isinstance(output, list) and output:
        output = output[0]
    return {**item, "output": number_text(output)}


def _is_classification(task: dict[str, object], instances: tuple[SeedInstance, ...]) -> bool:
    """Whether outputs repeat: at least `LABELLED_INSTANCES`, at most half of them different."""
    outputs = [instance.output for instance in instances]
    scored = task.get("Instances")
    for item in map(_with_first_output, scored if isinstance(scored, list) else []):
        output = item.get("output") if isinstance(item, dict) else None
        if isinstance(output, str):
            outputs.append(output.strip())
    return len(outputs) >= LABELLED_INSTANCES and 2 * len(set(outputs)) <= len(outputs)


def _line(text: str, section: str) -> int:
    """The line on which a section of the file begins; 1 where it is absent."""
    at = text.find(f'"{section}"')
    return 1 if at < 0 else 1 + text.count("\n", 0, at)


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
