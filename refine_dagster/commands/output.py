"""How commands that answer questions print: text for people, JSON for machines.

What every command needs: the console, the home, and the warehouse in it.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from refine_dagster.errors import RefineError
from refine_dagster.home import Home, find_home

if TYPE_CHECKING:
    from refine_dagster.lineage.changes import Cause
    from refine_dagster.warehouse.warehouse import Warehouse


# A log file has no width of its own; tables need some.
LOG_WIDTH = 120
console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)


def existing_home() -> Home:
    """The home that the environment names.

    Raises:
        RefineError: nothing was ever materialised in it.
    """
    home = find_home()
    if not home.warehouse.is_file():
        raise RefineError(
            "there is no warehouse here yet",
            where=str(home.warehouse),
            fix="run `refine-dagster run` first, or set REFINE_HOME",
        )
    return home


def open_warehouse(home: Home) -> Warehouse:
    """The warehouse of a home; DuckDB is imported here, so that `--help` stays quick."""
    from refine_dagster.warehouse.warehouse import Warehouse

    return Warehouse(home.warehouse)


HASH = re.compile(r"[0-9a-f]{32,64}")
HASH_SHOWN = 12
# The column that tells people which row is meant, where a table has it.
_TITLE = "instruction"


class OutputFormat(StrEnum):
    """Formats of an answer."""

    TEXT = "text"
    JSON = "json"


def print_json(answer: Any) -> None:
    """Print a dataclass as JSON; whatever has a `label` is given it as a field."""
    typer.echo(json.dumps(_plain(answer), ensure_ascii=False, indent=2))


def say(text: str = "") -> None:
    """Print a line as it is: no markup, no colours, no breaks."""
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def cause_lines(cause: Cause) -> Iterator[str]:
    """What a cause changed, a line for each column: old and new, or what was added or removed."""
    if cause.kind != "row":
        return
    if cause.change == "edited":
        yield from version_lines(cause.old, cause.new)
        return
    row = cause.old or cause.new
    for name in [_TITLE] if _TITLE in row else list(row):
        yield f"{name}: {text_of(row[name])}"


def version_lines(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """The columns that differ between two versions of a row, old and new below each other."""
    for name in dict.fromkeys([*old, *new]):
        yield f"{name}, old: {text_of(old.get(name))}"
        yield f"{name}, new: {text_of(new.get(name))}"


def text_of(value: Any) -> str:
    """A value on one line; text as it is, hashes cut, anything else as JSON."""
    if isinstance(value, str):
        if HASH.fullmatch(value):
            return f"{value[:HASH_SHOWN]}…"
        return value.replace("\n", "⏎")
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        told = {one.name: _plain(getattr(value, one.name)) for one in fields(value)}
        label = getattr(value, "label", None)
        return {"label": label, **told} if isinstance(label, str) else told
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
