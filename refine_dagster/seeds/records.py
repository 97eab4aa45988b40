"""One record of a seed file, whatever its format, checked and converted to a `SeedTask`.

A record is a mapping with `instruction`, either `instances` (a list of `{input, output}`,
Self-Instruct's schema) or `input` and `output` (Alpaca's), and optionally `id`, `name` and
`is_classification`. All problems of a record are found, not only the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from refine_dagster.escapes import HIDDEN, code_of
from refine_dagster.seeds.problems import Findings, shown
from refine_dagster.seeds.task import SeedInstance, SeedTask, normal_line, task_content

# 20,000 characters are about 5,000 tokens: longer than any prompt of any profile.
MAX_CHARACTERS = 20_000
MAX_ID_CHARACTERS = 200
# 48 bits: in a file of 52,000 tasks, two derived ids are equal with probability 5e-6.
ID_DIGITS = 12

KNOWN_FIELDS = ("id", "name", "instruction", "instances", "input", "output", "is_classification")
TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False, "": False}


@dataclass(frozen=True)
class Record:
    """A record and its line (see `SeedProblem.line`)."""

    line: int
    fields: Mapping[str, object]


def to_seed(
    record: Record, findings: Findings, *, prefix: str, text_cells: bool
) -> SeedTask | None:
    """Check a record and convert it; None (and findings) where it has an error.

    `prefix` begins the id of a record without one. `text_cells`: the format has only text (CSV).
    """
    line, fields = record.line, record.fields
    before = len(findings.found)
    instruction = _text(fields, "instruction", line, findings, required=True)
    if "instances" in fields:
        instances = _instances(fields["instances"], line, findings)
    else:
        given = _text(fields, "input", line, findings, required=False)
        output = _text(fields, "output", line, findings, required=True)
        instances = (SeedInstance(given, output),)
    seed_id = normal_line(_text(fields, "id", line, findings, required=False))
    if len(seed_id) > MAX_ID_CHARACTERS:
        fix = f"choose an id of at most {MAX_ID_CHARACTERS} characters"
        findings.error(line, "id", f"{len(seed_id):,} characters long", fix)
    name = _text(fields, "name", line, findings, required=False)
    is_classification = _truth(fields.get("is_classification"), line, findings, text_cells)
    if any(problem.severity == "error" for problem in findings.found[before:]):
        return None
    if not seed_id:
        seed_id = f"{prefix}-{task_content(instruction, instances)[:ID_DIGITS]}"
    return SeedTask(seed_id, name.strip() or seed_id, instruction, instances, is_classification)


def warn_of_misspelt(names: set[str], findings: Findings) -> None:
    """Warn of unknown field names that are nearly known ones; other unknown fields are ignored."""
    for name in sorted(names - set(KNOWN_FIELDS)):
        near = get_close_matches(name.strip().lower()[:40], KNOWN_FIELDS, n=1, cutoff=0.8)
        if near:
            findings.warning(
                None, shown(name, 40), "unknown field, ignored", f"rename it to `{near[0]}`"
            )


def check_text(
    value: object, line: int | None, field: str, findings: Findings, *, required: bool
) -> str:
    """`value` as text; "" where it is absent, or unusable and reported."""
    if value is None:
        value = ""
    if not isinstance(value, str):
        findings.error(
            line, field, f"expected text, found {kind(value)}", "put the value in quotation marks"
        )
        return ""
    if required and not value.strip():
        findings.error(line, field, "empty", "write it, or remove the task")
        return ""
    if len(value) > MAX_CHARACTERS:
        message = f"{len(value):,} characters long, the bound is {MAX_CHARACTERS:,}"
        findings.error(line, field, message, "shorten it, or remove the task")
        return ""
    at = value.find("\0")
    if at >= 0:
        findings.error(line, field, f"NUL character at character {at + 1}", "remove it")
        return ""
    at = next((i for i, char in enumerate(value) if "\ud800" <= char <= "\udfff"), -1)
    if at >= 0:
        message = f"half a surrogate pair at character {at + 1}"
        findings.error(line, field, message, "write the whole character, or remove it")
        return ""
    # A carriage return is a line end.
    hidden = HIDDEN.search(value.replace("\r", "\n"))
    if hidden is not None:
        message = f"`{code_of(hidden[0])}` at character {hidden.start() + 1} hides or controls text"
        findings.warning(line, field, message, "remove it, unless the task is about it")
    return value


def read_instance(item: object, where: str, line: int, findings: Findings) -> SeedInstance:
    """An object with `input` and `output`; empty texts where it has an error."""
    if not isinstance(item, dict):
        fix = 'write {"input": "...", "output": "..."}'
        findings.error(line, where, f"expected an object, found {kind(item)}", fix)
        return SeedInstance("", "")
    return SeedInstance(
        check_text(item.get("input"), line, f"{where}.input", findings, required=False),
        check_text(item.get("output"), line, f"{where}.output", findings, required=True),
    )


def kind(value: object) -> str:
    """The type of a JSON value in words."""
    names = {
        type(None): "null",
        bool: "true or false",
        str: "text",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def _text(
    fields: Mapping[str, object], field: str, line: int, findings: Findings, *, required: bool
) -> str:
    if required and field not in fields:
        names = ", ".join(shown(name, 20) for name in list(fields)[:8]) or "none"
        findings.error(line, field, f"missing; the fields are: {names}", f"add `{field}`")
        return ""
    return check_text(fields.get(field), line, field, findings, required=required)


def _instances(value: object, line: int, findings: Findings) -> tuple[SeedInstance, ...]:
    if not isinstance(value, list):
        fix = 'write [{"input": "...", "output": "..."}]'
        findings.error(line, "instances", f"expected a list, found {kind(value)}", fix)
        return ()
    if not value:
        findings.error(line, "instances", "empty", "give at least one input and output")
    return tuple(
        read_instance(item, f"instances[{index}]", line, findings)
        for index, item in enumerate(value)
    )


def _truth(value: object, line: int, findings: Findings, text_cells: bool) -> bool:
    if value is None:
        return False
    if isinstance(value, bool):
        return value
    if text_cells and isinstance(value, str) and value.strip().lower() in TRUTHS:
        return TRUTHS[value.strip().lower()]
    actual = shown(repr(value), 40) if text_cells else kind(value)
    findings.error(
        line, "is_classification", f"expected true or false, found {actual}", "write true or false"
    )
    return False
