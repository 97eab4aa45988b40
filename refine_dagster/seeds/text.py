"""Bytes of a seed file as text and as JSON values, with the line of every problem."""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE
from dataclasses import dataclass, field

from refine_dagster.seeds.problems import Findings, shown

LINE_END = re.compile(rb"\r\n|\r|\n")


@dataclass(frozen=True)
class Text:
    """A decoded file with LF line ends; `bad_lines` (from 1) contain replacement characters."""

    text: str
    bad_lines: frozenset[int] = field(default_factory=frozenset)


def decode(data: bytes, findings: Findings) -> Text:
    """The text of a UTF-8 file; a byte order mark is dropped with a note, CRLF becomes LF.

    Every line with a byte that is not UTF-8 is an error that names the byte's offset in the file.
    A UTF-16 file is one error and gives no text.
    """
    skipped = 0
    if data.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
        findings.error(None, None, "encoded as UTF-16", "save the file as UTF-8")
        return Text("")
    if data.startswith(BOM_UTF8):
        findings.note(1, None, "begins with a byte order mark", "nothing to do, it is ignored")
        skipped = len(BOM_UTF8)
    body = data[skipped:]
    bad: set[int] = set()
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        text = body.decode("utf-8", "replace")
        start = 0
        for number, end in enumerate([*LINE_END.finditer(body), None], 1):
            try:
                body[start : end.start() if end else None].decode("utf-8")
            except UnicodeDecodeError as error:
                offset = start + error.start
                byte = f"byte 0x{body[offset]:02x} at byte {offset + skipped} of the file"
                findings.error(number, None, f"not UTF-8: {byte}", "save the file as UTF-8")
                bad.add(number)
            start = end.end() if end else start
    return Text(text.replace("\r\n", "\n").replace("\r", "\n"), frozenset(bad))


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


def skip_blanks(text: str, start: int) -> int:
    """The first position from `start` that is no JSON white space."""
    blanks = _BLANKS.match(text, start)
    return blanks.end() if blanks else start


def json_value(text: str, start: int, line: int, findings: Findings) -> tuple[object, int] | None:
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


def whole_json(text: str, findings: Findings) -> object | None:
    """The JSON value of a file; None where it has none, with an error unless the file is blank."""
    start = skip_blanks(text, 0)
    if start == len(text):
        return None
    line = 1 + text.count("\n", 0, start)
    parsed = json_value(text, start, line, findings)
    if parsed is None:
        return None
    value, end = parsed
    end = skip_blanks(text, end)
    if end < len(text):
        at = 1 + text.count("\n", 0, end)
        findings.error(at, None, "broken JSON: text after the end", "remove what follows")
        return None
    return value
