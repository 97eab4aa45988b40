"""A section of a profile, and what each of its fields accepts.

A field is named by its section and name, `reinforcement.steps`; those of the run itself by the name
alone, `run_seed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo

from refine_dagster.config.problems import profile_error, refused
from refine_dagster.config.registered import Registered

TYPE_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text"}
# pydantic's constraints in words, lower bounds first.
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class ConfigSection(BaseModel):
    """A section of a profile; unknown names are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, section: str, values: Mapping[str, Any], origin: str) -> Self:
        """A copy with other values; None leaves a field as it is.

        Args:
            section: the section's name, for messages.
            values: field name -> value.
            origin: where the values stand, for messages.

        Raises:
            ProfileError: a value is out of range.
        """
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            origins = {f"{section}.{name}": origin for name in given}
            raise profile_error(origin, refused(error, origins, section)) from error


@dataclass(frozen=True)
class ConfigField:
    """What a config field accepts and means.

    Attributes:
        name: the field's name, with its section.
        type: in words, such as `integer or null`.
        range: bounds or choices in words; empty where the type says it all.
        default: a JSON value; None where there is no default.
        meaning: the field's description.
    """

    name: str
    type: str
    range: str
    default: Any
    meaning: str

    @property
    def section(self) -> str:
        """The name of the section; empty for a field of the run itself."""
        return self.name.rpartition(".")[0]


def sections_of(profile: type[BaseModel]) -> dict[str, type[ConfigSection]]:
    """The sections of a profile by name."""
    return {
        name: field.annotation
        for name, field in profile.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, ConfigSection)
    }


def fields_of(profile: type[BaseModel]) -> dict[str, FieldInfo]:
    """Every field by name, those of sections included."""
    sections = sections_of(profile)
    fields: dict[str, FieldInfo] = {}
    for name, field in profile.model_fields.items():
        if name in sections:
            inner = sections[name].model_fields.items()
            fields |= {f"{name}.{inner_name}": one for inner_name, one in inner}
        else:
            fields[name] = field
    return fields


def described(name: str, field: FieldInfo) -> ConfigField:
    """What the field accepts and means."""
    kind, choices = _type(field.annotation)
    for marker in field.metadata:
        if isinstance(marker, Registered):
            kind, choices = kind.replace("text", "choice"), marker.registry.names()
    default = None if field.is_required() else field.get_default(call_default_factory=True)
    return ConfigField(
        name=name,
        type=kind,
        range=", ".join(choices) or _bounds(field.metadata),
        default=list(default) if isinstance(default, tuple) else default,
        meaning=field.description or "",
    )


def _type(annotation: Any) -> tuple[str, Sequence[str]]:
    """A type in words, and its choices if it has some."""
    if get_origin(annotation) in (Union, UnionType):
        inner, choices = _type(next(one for one in get_args(annotation) if one is not NoneType))
        return f"{inner} or null", choices
    if get_origin(annotation) is Literal:
        return "choice", get_args(annotation)
    if get_origin(annotation) is tuple:
        return f"list of {_type(get_args(annotation)[0])[0]}s", ()
    if get_origin(annotation) is dict:
        return f"{_type(get_args(annotation)[1])[0]} by name", ()
    return TYPE_NAMES[annotation], ()


def _bounds(metadata: Sequence[Any]) -> str:
    limits = {name: getattr(one, name) for one in metadata for name in BOUNDS if hasattr(one, name)}
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    return " and ".join(
        f"{words} {limits[name]}" for name, words in BOUNDS.items() if name in limits
    )
