"""The split lists of SUPER-NATURALINSTRUCTIONS: which task files are for testing.

The benchmark's repository has all its tasks in one folder and says by lists which may be trained
on, which are for testing, and which are for neither (they share a source with a test task). A score
is a SUPER-NI score only on the 119 tasks of the test list, so a clone of the repository is read by
its lists. Only the English track (`splits/default`) is read; this project's prompts are English.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources.abc import Traversable
from typing import Literal, get_args

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
