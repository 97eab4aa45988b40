"""Task files of SUPER-NATURALINSTRUCTIONS (docs/methods.md, section 4).

The packaged held-out tasks and any folder of the user have the benchmark's own format. The
benchmark's repository has all tasks in one folder and lists which are for training, for testing,
and for neither (they share a source with a test task). A score is a SUPER-NI score only on the 119
tasks of the test list, so a clone of the repository is read by its lists. Only the English track
(`splits/default`) is read, because this project's prompts are English.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, get_args

from refine_dagster.errors import RefineError, few_of_each_kind
from refine_dagster.hashing import json_hash
from refine_dagster.prompts.example import number_text

PACKAGED = "packaged"
# Name of a packaged set -> its folders in this package. The larger set narrows the intervals of
# `refine-dagster compare`.
PACKAGED_FOLDERS: Mapping[str, tuple[str, ...]] = {
    PACKAGED: ("held_out",),
    "packaged_all": ("held_out", "held_out_more"),
}
Split = Literal["train", "test", "excluded"]
SPLITS: tuple[Split, ...] = get_args(Split)
TASK_FOLDER = "tasks"
TASK_NAME = re.compile(r"[\w.+-]+")

# Takes the field or line of a file (None for the whole file) and what is wrong.
Report = Callable[[str | None, str], None]


class TaskFileError(RefineError):
    """Task files are missing or malformed; `problems` has every problem, in file order."""

    def __init__(self, problems: Sequence[TaskProblem], *, where: str) -> None:
        self.problems = tuple(problems)
        found = few_of_each_kind((problem.message, str(problem)) for problem in self.problems)
        lines = "".join(f"\n  {line}" for line in found)
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the task files{lines}",
            where=where,
            fix="name a folder of SUPER-NI task files (*.json with Definition, Categories and "
            "Instances of input and output), a clone of the benchmark's repository (with tasks/ "
            f"and splits/default/), or {' or '.join(PACKAGED_FOLDERS)}",
        )


@dataclass(frozen=True)
class TaskProblem:
    """A problem of a task file; `field` is a path such as `Instances[3].output`."""

    file: str
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field + ': ' if self.field else ''}{self.message}"


@dataclass(frozen=True)
class TaskInstance:
    """An input (may be empty) and its right answers; only the benchmark's own may all be empty."""

    input: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A held-out task, named by its file; reports use the first of its categories."""

    name: str
    definition: str
    categories: tuple[str, ...]
    instances: tuple[TaskInstance, ...]


def load_tasks(path: str, max_instances: int, split: Split = "test") -> list[Task]:
    """Read the task files of `task_entries`, in name order.

    Args:
        path: a key of `PACKAGED_FOLDERS`, a folder of task files, or a clone of the benchmark's
            repository.
        max_instances: how many instances of each task are used, the first (the benchmark: 100).
        split: the list of a repository whose tasks are read.

    Raises:
        TaskFileError: with every problem of every file, in instances beyond `max_instances` too.
    """
    problems: list[TaskProblem] = []
    entries = _entries(path, split, problems)
    # The benchmark requires a list of right answers, and lets an answer in it be empty.
    lenient = path not in PACKAGED_FOLDERS and _has_splits(Path(path).expanduser())
    tasks = [_read_task(name, entry, problems, lenient) for name, entry in entries.items()]
    if problems:
        raise TaskFileError(problems, where=path)
    return [replace(task, instances=task.instances[:max_instances]) for task in tasks if task]


def task_entries(path: str, split: Split = "test") -> list[Traversable]:
    """All `*.json` of a folder, or the task files that a repository's list names, in name order."""
    problems: list[TaskProblem] = []
    entries = _entries(path, split, problems)
    if problems:
        raise TaskFileError(problems, where=path)
    return list(entries.values())


def tasks_hash(tasks: Sequence[Task]) -> str:
    """sha256 of the tasks as loaded, 64 hex digits; the files' layout does not count."""
    return json_hash([asdict(task) for task in tasks])


def _reporter(problems: list[TaskProblem], file: str) -> Report:
    return lambda field, message: problems.append(TaskProblem(file, field, message))


def _entries(path: str, split: Split, problems: list[TaskProblem]) -> dict[str, Traversable]:
    """Path in the folder -> task file, in name order."""
    if path in PACKAGED_FOLDERS:
        package = files("refine_dagster") / "evaluation"
        folders = [_json_files(package / name) for name in PACKAGED_FOLDERS[path]]
        return {name: entry for entries in folders for name, entry in entries.items()}
    report = _reporter(problems, path)
    folder = Path(path).expanduser()
    if not folder.is_dir():
        report(None, "there is no such folder")
        return {}
    if _has_splits(folder):
        return _split_entries(folder, split, problems)
    entries = _json_files(folder)
    if not entries:
        report(None, "holds no *.json files")
    return entries


def _json_files(folder: Traversable) -> dict[str, Traversable]:
    """Name -> file, in name order."""
    entries = {
        entry.name: entry
        for entry in folder.iterdir()
        if entry.name.endswith(".json") and entry.is_file()
    }
    return dict(sorted(entries.items()))


def _has_splits(folder: Traversable) -> bool:
    return (folder / "splits").is_dir()


def _list_name(split: Split) -> str:
    return f"splits/default/{split}_tasks.txt"


def _split_entries(
    folder: Traversable, split: Split, problems: list[TaskProblem]
) -> dict[str, Traversable]:
    """The task files of one list: path in the folder -> file, in name order.

    The other lists may be absent, but they must not name a task of this list.
    """
    lists = {
        name: _read_list(folder, name, problems)
        for name in SPLITS
        if name == split or (folder / _list_name(name)).is_file()
    }
    report = _reporter(problems, _list_name(split))
    entries: dict[str, Traversable] = {}
    for name, line in sorted(lists[split].items()):
        for other in lists:
            if other != split and name in lists[other]:
                report(f"line {line}", f"{name} is in {_list_name(other)} too")
        path = f"{TASK_FOLDER}/{name}.json"
        entry = folder / path
        if entry.is_file():
            entries[path] = entry
        else:
            report(f"line {line}", f"there is no {path}")
    return entries


def _read_list(folder: Traversable, split: Split, problems: list[TaskProblem]) -> dict[str, int]:
    """Task name -> its line, from 1."""
    report = _reporter(problems, _list_name(split))
    text = _read_text(folder / _list_name(split), report)
    if text is None:
        return {}
    if not text.strip():
        report(None, "names no tasks")
    lines_of: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        name = line.strip()
        if not name:
            continue
        if not TASK_NAME.fullmatch(name) or name.endswith(".json"):
            report(f"line {number}", "is no task name (a file name without `.json`)")
        elif name in lines_of:
            report(f"line {number}", f"{name} is in line {lines_of[name]} already")
        else:
            lines_of[name] = number
    return lines_of


def _read_text(entry: Traversable, report: Report) -> str | None:
    try:
        return entry.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        report(None, "is missing")
    except OSError as error:
        report(None, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        report(None, f"is not UTF-8: bad byte at offset {error.start}")
    return None


def _read_task(
    name: str, entry: Traversable, problems: list[TaskProblem], lenient: bool
) -> Task | None:
    """Read a task file; None where it has problems.

    With `lenient`, empty right answers are allowed; they count where an instance has no other.
    """
    before = len(problems)
    report = _reporter(problems, name)
    text = _read_text(entry, report)
    content: Any = None
    try:
        content = json.loads(text) if text is not None else None
    except json.JSONDecodeError as error:
        report(f"line {error.lineno}", f"is not JSON: {error.msg}")
    except RecursionError:
        report(None, "is nested too deeply")
    if len(problems) == before and not isinstance(content, dict):
        report(None, f"must be an object, not {_kind(content)}")
    if len(problems) > before:
        return None

    definitions = _texts(content, "Definition", "Definition", report)
    categories = _texts(content, "Categories", "Categories", report)
    for kind in ("Positive Examples", "Negative Examples"):
        for where, example in _objects(content.get(kind, []), kind, report):
            _text(example, "input", f"{where}.input", report, may_be_empty=True)
            _text(example, "output", f"{where}.output", report, may_be_empty=True)
    instances: list[TaskInstance] = []
    if "Instances" not in content:
        report("Instances", "is missing")
    elif content["Instances"] == []:
        report("Instances", "is empty")
    for where, instance in _objects(content.get("Instances", []), "Instances", report):
        given = _text(instance, "input", f"{where}.input", report, may_be_empty=True)
        answers = _texts(instance, "output", f"{where}.output", report, may_be_empty=lenient)
        references = tuple(answer for answer in answers if answer) or answers[:1]
        instances.append(TaskInstance(given, references))
    if len(problems) > before:
        return None
    return Task(entry.name.removesuffix(".json"), definitions[0], categories, tuple(instances))


def _objects(value: Any, field: str, report: Report) -> list[tuple[str, dict[str, Any]]]:
    """The objects of a list, each with its path."""
    if not isinstance(value, list):
        report(field, f"must be a list, not {_kind(value)}")
        return []
    items = [(f"{field}[{index}]", item) for index, item in enumerate(value)]
    for where, item in items:
        if not isinstance(item, dict):
            report(where, f"must be an object, not {_kind(item)}")
    return [(where, item) for where, item in items if isinstance(item, dict)]


def _texts(
    holder: dict[str, Any], key: str, field: str, report: Report, *, may_be_empty: bool = False
) -> tuple[str, ...]:
    """A field that is a text or a list of at least one text."""
    value = holder.get(key)
    if not isinstance(value, list):
        return (_text(holder, key, field, report, may_be_empty=may_be_empty),)
    if not value:
        report(field, "is an empty list")
    return tuple(
        _text({key: item}, key, f"{field}[{index}]", report, may_be_empty=may_be_empty)
        for index, item in enumerate(value)
    )


def _text(
    holder: dict[str, Any], key: str, field: str, report: Report, *, may_be_empty: bool = False
) -> str:
    if key not in holder:
        report(field, "is missing")
        return ""
    value = number_text(holder[key]) if key == "output" else holder[key]
    if not isinstance(value, str):
        report(field, f"must be text, not {_kind(value)}")
        return ""
    text = value.strip()
    if not text and not may_be_empty:
        report(field, "is empty")
    if "\0" in text:
        report(field, "holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        report(field, "holds half of a surrogate pair, which no file can store")
    return text


def _kind(value: Any) -> str:
    names = {
        dict: "an object",
        list: "a list",
        str: "text",
        bool: "a truth value",
        type(None): "null",
    }
    return names.get(type(value), "a number")
