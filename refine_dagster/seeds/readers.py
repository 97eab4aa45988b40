"""Seed files and folders, read in full or rejected in full.

`packaged` names the project's own seeds. A path is read by its kind: `.jsonl` (one object a line,
Self-Instruct's schema or `{instruction, input, output}`), `.json` (Alpaca's list of objects),
`.csv` and `.parquet` (columns `instruction`, `input`, `output`, optionally `id`, `name`,
`is_classification`), or a folder of SUPER-NI task files (`*.json` directly in it, hidden ones
excepted).

| In the file | Outcome |
|---|---|
| no such file, empty path | error |
| unreadable (permission, device, input/output failure) | error with the system's reason |
| not a file or folder; larger than 256 MiB | error |
| unknown extension | error that lists the known ones |
| no task in it (0 bytes, only blanks, `[]`, header only) | error |
| folder without `.json` files | error |
| not UTF-8 | error per line, with the byte and its offset; UTF-16 is recognised |
| byte order mark | accepted, note |
| CRLF or CR line ends | accepted, read as LF |
| broken JSON, two objects on a line | error; the other lines of a `.jsonl` are still checked |
| a field twice in one object | error |
| broken quotation or a wrong number of cells (CSV) | error |
| damaged Parquet, column of another type | error |
| `instruction` or `output` absent, null or blank | error; `input` may be |
| wrong type | error with expected and actual type; numbers are text in SUPER-NI outputs alone |
| NUL character, half a surrogate pair | error |
| text field over 20,000 characters, id over 200 | error |
| `is_classification` absent or null | false |
| `name` absent or blank | the id |
| `id` absent or blank | derived from the content: `alpaca-0123456789ab` |
| two tasks with one given id | error that names both, because lineage names seeds by their ids |
| same instruction and instances twice | warning: the one with the smallest id stays |
| `input` is `<noinput>`, `No input`, `N/A`, `None` or the like | read as empty |
| a line inside a field begins with `Input:`, `Output:` ... | warning: no prompt shows the task |
| a control or invisible character in a field | warning; kept, and shown by its code |
| unknown field | ignored; warning where it is nearly a known one |
| other spacing, line ends, order of lines or fields | the same seeds and the same row ids |

A task that is there twice would be drawn twice as often, and retracting it would take two edits.
The smallest id stays, not the first line, so that the order of lines never matters.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from importlib.resources import files

from refine_dagster.hashing import content_id
from refine_dagster.prompts.example import reads_back
from refine_dagster.seeds.formats import FORMATS, task_file_seed
from refine_dagster.seeds.problems import Findings, SeedFileError, SeedProblem, shown
from refine_dagster.seeds.records import ID_DIGITS, to_seed, warn_of_misspelt
from refine_dagster.seeds.task import SeedTask

PACKAGED = "packaged"
MAX_FILE_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class SeedFile:
    """The usable seeds of a file or folder, sorted by `seed_id`, no two with one id or content."""

    seeds: list[SeedTask]
    content_hash: str  # over the rows; white space and the order of lines do not count
    source: str  # `packaged`, or the path as given
    warnings: list[SeedProblem]


@dataclass(frozen=True)
class _Entry:
    seed: SeedTask
    file: str
    line: int | None

    def seen_from(self, other: _Entry) -> str:
        """Where this entry is, for a message about `other`."""
        return f"on line {self.line}" if self.file == other.file else f"in {shown(self.file)}"


def read_seeds(path: str) -> SeedFile:
    """Read seeds from `packaged`, a file or a folder.

    Raises:
        SeedFileError: the seeds have errors; `.problems` lists every one, warnings too.
    """
    entries, problems = _read(path)
    if any(problem.severity == "error" for problem in problems):
        raise SeedFileError(path, problems)
    seeds = sorted((entry.seed for entry in entries), key=lambda seed: seed.seed_id)
    content_hash = content_id("seed_file", *(seed.payload_hash for seed in seeds))
    return SeedFile(seeds, content_hash, path, problems)


def check_seeds(path: str) -> list[SeedProblem]:
    """Every finding in a seed file or folder, in file order."""
    return _read(path)[1]


def _read(path: str) -> tuple[list[_Entry], list[SeedProblem]]:
    findings = Findings(path)
    if path == PACKAGED:
        data = (files("refine_dagster") / "seeds" / "packaged.jsonl").read_bytes()
        entries = _file_entries(data, ".jsonl", findings)
    elif _is_folder(path):
        entries = _folder_entries(path, findings)
    else:
        entries = _path_entries(path, findings)
    if not entries and not findings.has_error:
        findings.error(None, None, "holds no seed task", "add at least one task")
    entries = _without_duplicates(entries, findings)
    _warn_of_marks(entries, findings)
    return entries, sorted(findings.found, key=lambda problem: (problem.file, problem.line or 0))


def _is_folder(path: str) -> bool:
    try:
        return bool(path) and stat.S_ISDIR(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def _path_entries(path: str, findings: Findings) -> list[_Entry]:
    extension = os.path.splitext(path)[1].lower()
    if extension not in FORMATS and os.path.exists(path):
        known = ", ".join(FORMATS)
        named = f"unknown extension `{shown(extension, 20)}`" if extension else "no extension"
        fix = f"rename it to one of {known}, or give a folder of SUPER-NI tasks"
        findings.error(None, None, named, fix)
        return []
    data = _bytes(path, findings)
    return [] if data is None else _file_entries(data, extension, findings)


def _file_entries(data: bytes, extension: str, findings: Findings) -> list[_Entry]:
    reader, prefix, text_cells = FORMATS[extension]
    records = reader(data, findings)
    warn_of_misspelt({name for record in records for name in record.fields}, findings)
    entries = []
    for record in records:
        seed = to_seed(record, findings, prefix=prefix, text_cells=text_cells)
        if seed is not None:
            entries.append(_Entry(seed, findings.file, record.line))
    return entries


def _folder_entries(path: str, findings: Findings) -> list[_Entry]:
    try:
        names = sorted(
            name
            for name in os.listdir(path)
            if name.lower().endswith(".json") and not name.startswith(".")
        )
    except OSError as error:
        findings.error(None, None, f"cannot be listed: {error.strerror}", "make it readable")
        return []
    if not names:
        findings.error(
            None, None, "a folder without .json files", "give a folder of SUPER-NI tasks"
        )
    entries = []
    for name in names:
        file = os.path.join(path, name)
        inner = Findings(file)
        data = _bytes(file, inner)
        stem = shown(os.path.splitext(name)[0], 300)
        seed = task_file_seed(data, stem, inner) if data is not None else None
        if seed is not None:
            entries.append(_Entry(seed, file, None))
        findings.found += inner.found
    return entries


def _bytes(path: str, findings: Findings) -> bytes | None:
    try:
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            findings.error(None, None, "not a regular file", "give a file or a folder")
        elif status.st_size > MAX_FILE_BYTES:
            bound = MAX_FILE_BYTES // (1024 * 1024)
            findings.error(None, None, f"larger than {bound} MiB", "take a sample of it")
        else:
            with open(path, "rb") as stream:
                return stream.read()
    except (FileNotFoundError, NotADirectoryError, ValueError):
        findings.error(None, None, "no such file or folder", "check the path")
    except OSError as error:
        fix = "make it readable, or copy it elsewhere"
        findings.error(None, None, f"cannot be read: {error.strerror}", fix)
    return None


def _without_duplicates(entries: list[_Entry], findings: Findings) -> list[_Entry]:
    first_of_id: dict[str, _Entry] = {}
    single: list[_Entry] = []
    for entry in entries:
        seed = entry.seed
        first = first_of_id.setdefault(seed.seed_id, entry)
        derived = seed.seed_id.endswith(f"-{seed.content_key[:ID_DIGITS]}")
        if first is entry or (derived and first.seed.content_key == seed.content_key):
            single.append(entry)
            continue
        name, where = shown(seed.seed_id, 60), first.seen_from(entry)
        message = f"`{name}` is already the id of the task {where}"
        inner = Findings(entry.file)
        inner.error(entry.line, "id", message, "give each task its own id")
        findings.found += inner.found
    kept: dict[str, _Entry] = {}
    for entry in sorted(single, key=_rank):
        first = kept.setdefault(entry.seed.content_key, entry)
        if first is entry:
            continue
        name, where = shown(first.seed.seed_id, 60), first.seen_from(entry)
        message = f"the same instruction and instances as `{name}` {where}; left out"
        inner = Findings(entry.file)
        inner.warning(entry.line, None, message, "remove one of the two")
        findings.found += inner.found
    return list(kept.values())


def _warn_of_marks(entries: list[_Entry], findings: Findings) -> None:
    for entry in entries:
        if not reads_back(entry.seed.example):
            name = shown(entry.seed.seed_id, 60)
            message = f"a line of `{name}` begins like one of a prompt; it is not shown in prompts"
            inner = Findings(entry.file)
            inner.warning(entry.line, None, message, "write `Input:` and `Output:` otherwise there")
            findings.found += inner.found


def _rank(entry: _Entry) -> tuple[str, str, bool]:
    return entry.seed.seed_id, entry.seed.name, entry.seed.is_classification
