"""The sections of a profile: what their fields accept, and what is wrong with values.

A field is named by its section and name, `reinforcement.steps`; those of the run itself by the name
alone, `run_seed`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from refine_dagster.errors import RefineError
from refine_dagster.registry import Registry, RegistryError

TYPE_NAMES = {int: "integer", float: "number", bool: "true or false", str: "text"}
# pydantic's constraints in words, lower bounds first.
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}


class ProfileError(RefineError):
    """The profile, or one of its fields, does not exist or has a value out of range."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with a value, in one sentence, and the section that says what is right."""

    text: str
    section: str


def refused(error: ValidationError, origins: Mapping[str, str], section: str = "") -> list[Problem]:
    """The values that pydantic refuses.

    Args:
        origins: name of a field -> where its value stands.
        section: the section that was validated; empty for a whole profile.
    """
    problems = []
    for item in error.errors():
        location = [part for part in (section, *map(str, item["loc"])) if part]
        # A location may go on inside the value, to an item of a list.
        names = [".".join(location[:length]) for length in (2, 1)]
        name = next((name for name in names if name in origins), names[0])
        value = f" = {item['input']!r} ({origins.get(name, 'default')})"
        of_section = isinstance(item["input"], dict)  # fields that do not agree with each other
        message = item["msg"].removeprefix("Value error, ")
        text = f"{names[-1] if of_section else name + value}: {message}"
        problems.append(Problem(text, location[0]))
    return problems


def profile_error(where: str, problems: Sequence[Problem]) -> ProfileError:
    sections = sorted({problem.section for problem in problems} - {""})
    section = sections[0] if len(sections) == 1 else "SECTION"
    texts = [problem.text for problem in problems]
    return ProfileError(
        texts[0] if len(texts) == 1 else "\n  ".join([f"{len(texts)} problems", *texts]),
        where=where,
        fix=f"`refine-dagster config describe {section}` prints fields, types, ranges and meanings",
    )


@dataclass(frozen=True)
class Registered:
    """Annotates a field: a name, or several, that the registry knows.

    Names are checked when config is validated; what they stand for is not imported then.
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: str | Iterable[str]) -> str | Iterable[str]:
        for name in _names(value):
            try:
                self.registry.require(name)
            except RegistryError as error:
                raise PydanticCustomError("registered", "{what}", {"what": error.what}) from error
        return value


def plug_ins_of(*sections: BaseModel) -> dict[str, Any]:
    """What other packages provide to these sections, for manifests and hashes.

    Returns:
        `plug_ins`: kind and name -> package and version; empty where all is this project's own.

    Raises:
        RegistryError: a package is gone or broken.
    """
    versions: dict[str, str] = {}
    for section in sections:
        for field_name, field in type(section).model_fields.items():
            for marker in field.metadata:
                if isinstance(marker, Registered):
                    names, noun = _names(getattr(section, field_name)), marker.registry.noun
                    for name, version in marker.registry.versions(*names).items():
                        versions[f"{noun} {name}"] = version
    return {"plug_ins": versions} if versions else {}


def _names(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


class ConfigSection(BaseModel):
    """A section of a profile; unknown names are refused and values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def changed(self, section: str, values: Mapping[str, Any], origin: str) -> Self:
        """A copy with other values; None leaves a field as it is.

        Args:
            section, origin: the section's name, and where the values stand, for messages.

        Raises:
            ProfileError: a value is out of range.
        """
        given = {name: value for name, value in values.items() if value is not None}
        try:
            return type(self).model_validate({**self.model_dump(), **given})
        except ValidationError as error:
            origins = {f"{section}.{name}": origin for name in given}
            raise profile_error(origin, refused(error, origins, section)) from error


Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, lt=1)]


def setting(default: Any, meaning: str, **options: Any) -> Any:
    """A config field with its default and its meaning; limits and other options as in `Field`."""
    return Field(default, description=meaning, **options)


@dataclass(frozen=True)
class ConfigField:
    """What a config field accepts and means.

    Attributes:
        type: in words, such as `integer or null`.
        range: bounds or choices in words; empty where the type says it all.
        default: a JSON value; None where there is no default.
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
            for inner_name, inner in sections[name].model_fields.items():
                fields[f"{name}.{inner_name}"] = inner
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
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        kind, choices = _type(next(part for part in inner if part is not NoneType))
        return f"{kind} or null", choices
    if origin is Literal:
        return "choice", inner
    if origin is tuple:
        return f"list of {_type(inner[0])[0]}s", ()
    if origin is dict:
        return f"{_type(inner[1])[0]} by name", ()
    return TYPE_NAMES[annotation], ()


def _bounds(metadata: Sequence[Any]) -> str:
    limits = {
        name: getattr(limit, name) for limit in metadata for name in BOUNDS if hasattr(limit, name)
    }
    if limits.keys() == {"ge", "le"}:
        return f"{limits['ge']} to {limits['le']}"
    return " and ".join(
        f"{words} {limits[name]}" for name, words in BOUNDS.items() if name in limits
    )
