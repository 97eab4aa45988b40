"""Options that several commands have."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer

from refine_dagster.errors import RefineError


class OutputFormat(StrEnum):
    """Formats of an answer."""

    TEXT = "text"
    JSON = "json"


FormatOption = Annotated[OutputFormat, typer.Option("--format", help="Text, or JSON.")]
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
