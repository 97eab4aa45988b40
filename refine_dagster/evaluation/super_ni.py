"""Task files of SUPER-NATURALINSTRUCTIONS, and the benchmark's zero-shot prompt for them.

The held-out tasks that come with the package and any folder a user names have one format, the
benchmark's own (methods B, SUPER-NI protocol); a clone of its repository is read by its split
lists. The prompt lives here because fine-tuning renders its examples with the very same function: a
model is asked in the words it was trained on.

The split lists of SUPER-NATURALINSTRUCTIONS: which task files are for testing.

The benchmark's repository has all its tasks in one folder and says by lists which may be trained
on, which are for testing, and which are for neither (they share a source with a test task). A score
is a SUPER-NI score only on the 119 tasks of the test list, so a clone of the repository is read by
its lists. Only the English track (`splits/default`) is read; this project's prompts are English.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from refine_dagster.errors import RefineError
from refine_dagster.hashing import json_hash

Split = Literal["train", "test", "excluded"]
SPLITS: tuple[Split, ...] = get_args(Split)
TASK_FOLDER = "tasks"
TASK_NAME = re.compile(r"[\w.+-]+")

# Takes the file, the place in it (None for the whole file) and what is wrong.
Report = Callable[[str, str | None, str], None]


def has_splits(folder: Traversable) -> bool:
    """Whether a folder is laid out as the benchmark's repository, with lists beside the tasks."""
    return (folder / "splits").is_dir()


def list_name(split: Split) -> str:
    """The list's path in the repository.

    >>> list_name("test")
    'splits/default/test_tasks.txt'
    """
    return f"splits/default/{split}_tasks.txt"


def split_entries(folder: Traversable, split: Split, problem: Report) -> dict[str, Traversable]:
    """The task files of one list: path in the folder -> file, in name order.

    The other lists need not be there; those that are must not name a task of this one.

    Args:
        folder: as `has_splits` knows it.
        problem: told of everything wrong: a missing, unreadable or empty list, a line that is no
            task name, a task named twice or by two lists, and a task without a file.
    """
    lists = {
        one: _read_list(folder, one, problem)
        for one in SPLITS
        if one == split or (folder / list_name(one)).is_file()
    }
    chosen = lists[split]
    entries: dict[str, Traversable] = {}
    for name, line in sorted(chosen.items()):
        for other in lists:
            if other != split and name in lists[other]:
                problem(list_name(split), f"line {line}", f"{name} is in {list_name(other)} too")
        path = f"{TASK_FOLDER}/{name}.json"
        entry = folder / path
        if entry.is_file():
            entries[path] = entry
        else:
            problem(list_name(split), f"line {line}", f"there is no {path}")
    return entries


def _read_list(folder: Traversable, split: Split, problem: Report) -> dict[str, int]:
    """Task name -> the line (from 1) that names it; blank lines count for nothing."""
    path = list_name(split)
    try:
        text = (folder / path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        problem(path, None, "is missing")
        return {}
    except OSError as error:
        problem(path, None, f"cannot be read: {error.strerror}")
        return {}
    except UnicodeDecodeError as error:
        problem(path, None, f"is not UTF-8: bad byte at offset {error.start}")
        return {}
    found: dict[str, int] = {}
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1)]
    for number, name in lines:
        if not name:
            continue
        if not TASK_NAME.fullmatch(name) or name.endswith(".json"):
            problem(path, f"line {number}", "is no task name (a file name without `.json`)")
        elif name in found:
            problem(path, f"line {number}", f"{name} is in line {found[name]} already")
        else:
            found[name] = number
    if not any(name for _, name in lines):
        problem(path, None, "names no tasks")
    return found


PACKAGED = "packaged"


class TaskFileError(RefineError):
    """Task files are missing or malformed; `problems` has every one found, in file order."""

    def __init__(self, problems: Sequence[TaskProblem], *, where: str) -> None:
        self.problems = tuple(problems)
        lines = "".join(f"\n  {problem}" for problem in self.problems)
        count = len(self.problems)
        super().__init__(
            f"{count} problem{'s' if count != 1 else ''} in the task files{lines}",
            where=where,
            fix="name a folder of SUPER-NI task files (*.json with Definition, Categories and "
            "Instances of input and output), a clone of the benchmark's repository (with tasks/ "
            "and splits/default/), or `packaged`",
        )


@dataclass(frozen=True)
class TaskProblem:
    """One thing wrong with a task file; `field` is a path such as `Instances[3].output`."""

    file: str
    field: str | None
    message: str

    def __str__(self) -> str:
        return f"{self.file}: {self.field + ': ' if self.field else ''}{self.message}"


@dataclass(frozen=True)
class TaskInstance:
    """One question of a task: its input (may be empty) and its right answers, at least one.

    Only a task of the benchmark's own repository may have an instance whose one right answer is
    empty; ROUGE-L against it is 0.
    """

    input: str
    references: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """A held-out task.

    Attributes:
        name: the file's name without `.json`.
        definition: what to do; where the file gives several, the first.
        categories: at least one; the first is the task's category in reports.
        instances: the first `max_instances` of the file.
    """

    name: str
    definition: str
    categories: tuple[str, ...]
    instances: tuple[TaskInstance, ...]


def load_tasks(path: str, max_instances: int, split: Split = "test") -> list[Task]:
    """Read every task file that `task_entries` finds, in name order.

    Args:
        path: `packaged` for the held-out tasks of this package, a folder of task files, or a clone
            of the benchmark's repository.
        max_instances: how many instances of a task count, its first (the benchmark: 100).
        split: of a repository, the list whose tasks are read.

    Raises:
        TaskFileError: no such folder, no task files, or any file that is not a task; one error
            with every problem of every file. All instances are checked, those beyond
            `max_instances` too.
    """
    problems: list[TaskProblem] = []
    entries = _entries(path, split, problems)
    # The benchmark asks for a list of right answers, and lets an answer in it be empty.
    lenient = path != PACKAGED and has_splits(Path(path).expanduser())
    tasks = [
        task
        for name, entry in entries.items()
        if (task := _read_task(name, entry, max_instances, problems, lenient)) is not None
    ]
    if problems:
        raise TaskFileError(problems, where=path)
    return tasks


def task_entries(path: str, split: Split = "test") -> list[Traversable]:
    """The task files that `load_tasks` reads, unread.

    They are all the `*.json` of a folder; or, of a folder with the benchmark's split lists, the
    files in its folder `tasks` that the list names.

    Raises:
        TaskFileError: no such folder, no task files, or anything wrong with the lists.
    """
    problems: list[TaskProblem] = []
    entries = _entries(path, split, problems)
    if problems:
        raise TaskFileError(problems, where=path)
    return list(entries.values())


def _entries(path: str, split: Split, problems: list[TaskProblem]) -> dict[str, Traversable]:
    """File name, or path in the folder -> file, in name order; what is wrong joins `problems`."""

    def problem(file: str, field: str | None, message: str) -> None:
        problems.append(TaskProblem(file, field, message))

    folder: Traversable
    if path == PACKAGED:
        folder = files("refine_dagster") / "evaluation" / "held_out"
    else:
        folder = Path(path).expanduser()
    if not folder.is_dir():
        problem(path, None, "there is no such folder")
        return {}
    if has_splits(folder):
        return split_entries(folder, split, problem)
    found = {
        entry.name: entry
        for entry in folder.iterdir()
        if entry.name.endswith(".json") and entry.is_file()
    }
    if not found:
        problem(path, None, "holds no *.json files")
    return dict(sorted(found.items()))


def tasks_hash(tasks: Sequence[Task]) -> str:
    """sha256 of the tasks as loaded, 64 hex digits; the files' layout does not count."""
    return json_hash([asdict(task) for task in tasks])


def _read_task(
    name: str,
    entry: Traversable,
    max_instances: int,
    problems: list[TaskProblem],
    lenient: bool,
) -> Task | None:
    """Read one file, or add what is wrong with it to `problems`.

    Args:
        name: how to call the file in a problem.
        lenient: let a right answer be empty. It counts where an instance has no other.
    """
    found: list[TaskProblem] = []

    def problem(field: str | None, message: str) -> None:
        found.append(TaskProblem(name, field, message))

    try:
        content: Any = json.loads(entry.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        problem(None, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        problem(None, f"is not UTF-8: bad byte at offset {error.start}")
    except json.JSONDecodeError as error:
        problem(f"line {error.lineno}", f"is not JSON: {error.msg}")
    except RecursionError:
        problem(None, "is nested too deeply")
    if found:
        problems += found
        return None
    if not isinstance(content, dict):
        problems.append(TaskProblem(name, None, f"must be an object, not {_kind(content)}"))
        return None

    definitions = _texts(content, "Definition", "Definition", problem)
    categories = _texts(content, "Categories", "Categories", problem)
    for kind in ("Positive Examples", "Negative Examples"):
        examples = _objects(content.get(kind, []), kind, problem)
        for place, example in examples:
            _text(example, "input", f"{kind}[{place}].input", problem, may_be_empty=True)
            _text(example, "output", f"{kind}[{place}].output", problem, may_be_empty=True)
    instances: list[TaskInstance] = []
    if "Instances" not in content:
        problem("Instances", "is missing")
    else:
        if content["Instances"] == []:
            problem("Instances", "is empty")
        for place, instance in _objects(content["Instances"], "Instances", problem):
            where = f"Instances[{place}]"
            given = _text(instance, "input", f"{where}.input", problem, may_be_empty=True)
            references = _texts(
                instance, "output", f"{where}.output", problem, may_be_empty=lenient
            )
            told = tuple(text for text in references if text) or references[:1]
            instances.append(TaskInstance(given, told))
    if found:
        problems += found
        return None
    return Task(
        entry.name.removesuffix(".json"),
        definitions[0],
        categories,
        tuple(instances[:max_instances]),
    )


class _Report(Protocol):
    def __call__(self, field: str | None, message: str) -> None: ...


def _objects(value: Any, field: str, problem: _Report) -> list[tuple[int, dict[str, Any]]]:
    if not isinstance(value, list):
        problem(field, f"must be a list, not {_kind(value)}")
        return []
    for place, item in enumerate(value):
        if not isinstance(item, dict):
            problem(f"{field}[{place}]", f"must be an object, not {_kind(item)}")
    return [(place, item) for place, item in enumerate(value) if isinstance(item, dict)]


def _texts(
    holder: dict[str, Any], key: str, field: str, problem: _Report, *, may_be_empty: bool = False
) -> tuple[str, ...]:
    """A field that is a text or a list of at least one text."""
    value = holder.get(key)
    if not isinstance(value, list):
        return (_text(holder, key, field, problem, may_be_empty=may_be_empty),)
    if not value:
        problem(field, "is an empty list")
    return tuple(
        _text({key: item}, key, f"{field}[{place}]", problem, may_be_empty=may_be_empty)
        for place, item in enumerate(value)
    )


def _text(
    holder: dict[str, Any], key: str, field: str, problem: _Report, *, may_be_empty: bool = False
) -> str:
    if key not in holder:
        problem(field, "is missing")
        return ""
    value = holder[key]
    if not isinstance(value, str):
        problem(field, f"must be text, not {_kind(value)}")
        return ""
    text = value.strip()
    if not text and not may_be_empty:
        problem(field, "is empty")
    if "\0" in text:
        problem(field, "holds a NUL character")
    if any("\ud800" <= character <= "\udfff" for character in text):
        problem(field, "holds half of a surrogate pair, which no file can store")
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
