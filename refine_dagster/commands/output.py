"""What commands share: options, the home that they read, text for people and JSON for machines."""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from refine_dagster.errors import RefineError
from refine_dagster.escapes import terminal_json, terminal_text
from refine_dagster.home import Home, find_home

if TYPE_CHECKING:
    from refine_dagster.warehouse.warehouse import Warehouse

# A log file has no width of its own; tables need some.
LOG_WIDTH = 120
console = Console() if sys.stdout.isatty() else Console(width=LOG_WIDTH)
HASH = re.compile(r"[0-9a-f]{32,64}")
HASH_SHOWN = 12
# What DuckDB takes as a limit.
MOST_ROWS = 2**62


FormatOption = Annotated[Literal["text", "json"], typer.Option("--format", help="Text, or JSON.")]
ProfileOption = Annotated[
    str | None,
    typer.Option("--profile", help="offline, laptop, gpu, or a YAML file [REFINE_PROFILE]."),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="A config field: reinforcement.steps=30. May be repeated."),
]
SeedsOption = Annotated[
    str | None,
    typer.Option("--seeds", help="A seed file, or a folder of SUPER-NI tasks: seeds.path."),
]


def overrides_of(settings: Iterable[str] | None, **options: Any) -> dict[str, Any]:
    """Config field -> value of this run.

    Args:
        settings: texts of `--set`, such as `reinforcement.steps=30`.
        options: section and field, joined by two underscores -> value; None sets nothing.
    """
    overrides: dict[str, Any] = {}
    for text in settings or ():
        name, equals, value = text.partition("=")
        if not equals:
            raise RefineError(
                f"{text!r} sets no config field",
                where="--set",
                fix="write --set section.field=value",
            )
        overrides[name] = value
    for option, value in options.items():
        if value is not None:
            overrides[option.replace("__", ".")] = value
    return overrides


def existing_home() -> Home:
    """The home that the environment names, where something was materialised."""
    home = find_home()
    if not home.warehouse.is_file():
        raise RefineError(
            "there is no warehouse here yet",
            where=str(home.warehouse),
            fix="run `refine-dagster run` first, or set REFINE_HOME",
        )
    return home


def open_warehouse(home: Home, *, write: bool = False) -> Warehouse:
    """The warehouse of a home, to read; DuckDB is imported here, so that `--help` stays quick."""
    from refine_dagster.warehouse.warehouse import Warehouse

    return Warehouse(home.warehouse) if write else Warehouse.to_read(home.warehouse)


def say(text: str = "") -> None:
    """Print a line as it is: no markup, no colours, no breaks."""
    console.print(plain(text), highlight=False, soft_wrap=True)


def say_lines(text: str) -> None:
    """Print a text that other tools read, such as a picture's; it ends with its own line break."""
    typer.echo(terminal_text(text), nl=False)


def say_wrapped(text: str, indent: int) -> None:
    """Print indented text, broken at the console's width."""
    margin = " " * indent
    for line in textwrap.wrap(
        text, console.width, initial_indent=margin, subsequent_indent=margin, break_long_words=False
    ):
        say(line)


def print_json(answer: Any) -> None:
    """Print JSON values or dataclasses as JSON; a property `label` is given as a field."""
    typer.echo(terminal_json(json.dumps(_plain(answer), ensure_ascii=False, indent=2)))


def plain(text: str) -> Text:
    """A text for `console`: nothing in it is markup, and nothing acts on the terminal."""
    return Text(terminal_text(text))


def rich_table(title: str | None, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> Table:
    """A table for the terminal; numbers to the right with four digits, hashes cut."""
    table = titled(title)
    for number, name in enumerate(columns):
        numeric = {type(row[number]) for row in rows} <= {int, float, NoneType}
        table.add_column(plain(name), justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(plain(cell(value)) for value in row))
    return table


def titled(title: str | None, **options: Any) -> Table:
    """An empty table under its title."""
    shown = None if title is None else plain(title)
    return Table(title=shown, title_justify="left", title_style="bold", **options)


def cell(value: Any, *, whole: bool = False) -> str:
    """A value in a table; hashes cut, or whole."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(cell(item, whole=whole) for item in value)
    return str(value) if whole else shortened(str(value))


def shortened(text: str) -> str:
    return f"{text[:HASH_SHOWN]}…" if HASH.fullmatch(text) else text


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
        label = getattr(value, "label", None)
        return {"label": label, **plain} if isinstance(label, str) else plain
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
