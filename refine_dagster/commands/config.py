"""`refine-dagster config`: the effective config, and what each of its fields means."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refine_dagster.commands.output import (
    FormatOption,
    ProfileOption,
    SeedsOption,
    SetOption,
    console,
    overrides_of,
    print_json,
    rich_table,
    say,
    say_wrapped,
)
from refine_dagster.errors import RefineError

if TYPE_CHECKING:
    from refine_dagster.config.section import ConfigField

config_app = typer.Typer(no_args_is_help=True, help="The config of a run, and what it means.")
SectionArgument = Annotated[
    str | None, typer.Argument(metavar="SECTION", help="A section, or a field; without, all.")
]

RUN_FIELDS = "Fields of the run itself; their names have no section."


@config_app.command("show")
def show(
    section: SectionArgument = None,
    profile: ProfileOption = None,
    seeds: SeedsOption = None,
    settings: SetOption = None,
    format: FormatOption = "text",
) -> None:
    """Show the effective config, and where each value comes from.

    A source is the launchpad, --set, a variable, a line of the profile's file, or the default.

    Example: refine-dagster config show reinforcement --profile gpu
    """
    from refine_dagster.config.profile import read_config

    config = read_config(profile, overrides_of(settings, seeds__path=seeds))
    values = {}
    for field in _fields(section):
        holder = getattr(config.profile, field.section) if field.section else config.profile
        values[field.name] = getattr(holder, field.name.rpartition(".")[2])
    sources = {name: config.origins.get(name, "default") for name in values}
    if format == "json":
        print_json({name: {"value": values[name], "source": sources[name]} for name in values})
    else:
        rows = [(name, _text(value), sources[name]) for name, value in values.items()]
        table = rich_table(None, ("field", "value", "source"), rows)
        table.columns[0].no_wrap = True
        console.print(table)


@config_app.command("describe")
def describe(
    section: SectionArgument = None,
    format: Annotated[
        Literal["text", "json", "markdown"],
        typer.Option(help="Text, JSON, or tables for docs/config.md."),
    ] = "text",
) -> None:
    """Describe config fields: type, range or choices, default, meaning.

    Example: refine-dagster config describe reinforcement
    """
    fields = _fields(section)
    if format == "json":
        print_json(fields)
    elif format == "markdown":
        typer.echo("\n".join(_markdown(fields)))
    else:
        for name, meaning, inner in _by_section(fields):
            say_wrapped(f"{name}: {meaning}", indent=0)
            for field in inner:
                joined = {"choice": " of ", "list of choices": " from "}.get(field.type, ", ")
                kind = joined.join(filter(None, (field.type, field.range)))
                say_wrapped(f"{field.name} ({kind}; default {_text(field.default)})", indent=2)
                say_wrapped(field.meaning, indent=6)
            say()


def _fields(wanted: str | None) -> list[ConfigField]:
    """All fields, those of a section, or the field of that name."""
    from refine_dagster.config.profile import Profile
    from refine_dagster.config.section import described, fields_of, sections_of

    fields = [described(name, field) for name, field in fields_of(Profile).items()]
    chosen = [field for field in fields if wanted in (None, field.section, field.name)]
    if not chosen:
        sections = list(sections_of(Profile))
        near = get_close_matches(str(wanted), [*sections, *(field.name for field in fields)], n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise RefineError(
            f"there is no section or field {wanted!r}",
            fix=f"{guess}the sections are {', '.join(sections)}",
        )
    return chosen


def _by_section(fields: Sequence[ConfigField]) -> Iterator[tuple[str, str, list[ConfigField]]]:
    """The name of each section, its meaning and its fields."""
    from refine_dagster.config.profile import Profile
    from refine_dagster.config.section import sections_of

    sections = sections_of(Profile)
    for section, inner in groupby(fields, key=lambda field: field.section):
        meaning = sections[section].__doc__ if section else RUN_FIELDS
        yield section or "run", meaning or "", list(inner)


def _markdown(fields: Sequence[ConfigField]) -> Iterator[str]:
    for section, meaning, inner in _by_section(fields):
        yield f"### {section}\n\n{meaning}\n"
        yield "| field | type | range | default | meaning |\n|---|---|---|---|---|"
        for field in inner:
            cells = (f"`{field.name}`", field.type, field.range, f"`{_text(field.default)}`")
            yield f"| {' | '.join(cells)} | {field.meaning} |"
        yield ""


def _text(value: Any) -> str:
    """A value as `--set` takes it."""
    return value if isinstance(value, str) else json.dumps(value)
