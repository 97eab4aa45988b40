"""Where values of config fields stand: the launchpad, `--set`, the environment, a profile's file.

`profile.py` says which source wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

from refine_dagster.config.section import Problem, ProfileError, fields_of, sections_of

PROFILES = files("refine_dagster.config") / "profiles"
PREFIX = "REFINE_"
PROFILE_VARIABLE = "REFINE_PROFILE"
SHORT_VARIABLES = {"REFINE_BASE_MODEL": "base_model.id", "REFINE_SEEDS": "seeds.path"}
# Variables that name no config field.
OTHER_VARIABLES = (PROFILE_VARIABLE, "REFINE_HOME")


@dataclass(frozen=True)
class FieldValue:
    """A value of a config field, not validated yet.

    Attributes:
        name: the field with its section, or a section, whose value is a mapping.
        value: a JSON value; or a text that stands for one, as YAML.
        origin: where it is written: `--set`, `REFINE_ROUNDS`, `offline.yaml:12`.
    """

    name: str
    value: Any
    origin: str


class ProfileSource(PydanticBaseSettingsSource):
    """The values of one source by field name, and the problems: values that no field takes."""

    def __init__(self, profile: type[BaseSettings], values: Iterable[FieldValue]) -> None:
        super().__init__(profile)
        self.values: dict[str, FieldValue] = {}
        self.problems: list[Problem] = []
        self._fields, self._sections = fields_of(profile), sections_of(profile)
        for value in values:
            self._add(value)

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The value of one of the profile's own fields; pydantic-settings wants this method."""
        return self().get(field_name), field_name, False

    def __call__(self) -> dict[str, Any]:
        """The values as pydantic takes them, sections as mappings."""
        nested: dict[str, Any] = {}
        for name, given in self.values.items():
            section, _, field_name = name.rpartition(".")
            (nested.setdefault(section, {}) if section else nested)[field_name] = given.value
        return nested

    def _add(self, given: FieldValue) -> None:
        name, value, origin = given.name, given.value, given.origin
        if name in self._sections:
            fields = _parsed(value)
            if isinstance(fields, Mapping):
                for field_name, inner in fields.items():
                    self._add(FieldValue(f"{name}.{field_name}", inner, origin))
            elif fields is not None:
                text = f"{name} = {value!r} ({origin}): a section, set its fields instead"
                self.problems.append(Problem(text, name))
        elif name in self._fields:
            is_text = _takes_text(self._fields[name].annotation) and _parsed(value) is not None
            self.values[name] = FieldValue(name, value if is_text else _parsed(value), origin)
        else:
            near = get_close_matches(name, [*self._fields, *self._sections], n=1)
            guess = f", did you mean {near[0]!r}?" if near else ""
            section = (near[0] if near else name).partition(".")[0]
            self.problems.append(
                Problem(
                    f"unknown field {name!r} ({origin}){guess}",
                    section if section in self._sections else "",
                )
            )


def packaged_profiles() -> list[str]:
    """Names of the profiles that come with the package, sorted."""
    return sorted(entry.name.removesuffix(".yaml") for entry in PROFILES.iterdir())


def of_mapping(values: Mapping[str, Any] | None, origin: str) -> Iterator[FieldValue]:
    """The values of a mapping: field name -> value, or section -> its fields."""
    for name, value in (values or {}).items():
        yield FieldValue(name, value, origin)


def of_environment(environment: Mapping[str, str]) -> Iterator[FieldValue]:
    """The values of variables such as `REFINE_JUDGE__STEPS`."""
    for variable, text in sorted(environment.items()):
        if variable.startswith(PREFIX) and variable not in OTHER_VARIABLES:
            name = variable.removeprefix(PREFIX).lower().replace("__", ".")
            yield FieldValue(SHORT_VARIABLES.get(variable, name), text, variable)


def of_file(profile: str) -> Iterator[FieldValue]:
    """The values of a profile: a packaged one by its name, or any YAML file by its path.

    Raises:
        ProfileError: there is no such profile, or it is no YAML mapping.
    """
    if profile.endswith((".yaml", ".yml")):
        path: Path | Traversable = Path(profile)
        if not path.is_file():
            raise ProfileError("no such file", where=profile, fix="name an existing YAML file")
    elif profile in packaged_profiles():
        path = PROFILES / f"{profile}.yaml"
    else:
        known = packaged_profiles()
        near = get_close_matches(profile, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ProfileError(
            f"there is no profile {profile!r}",
            fix=f"{guess}choose one of {', '.join(known)}, or name a YAML file",
        )
    yield FieldValue("name", path.name.rpartition(".")[0], path.name)
    try:
        loader = yaml.SafeLoader(path.read_bytes())
        node = loader.get_single_node()
        values = loader.construct_document(node) if node else {}
    except yaml.YAMLError as error:
        raise ProfileError(f"not YAML: {error}", where=profile, fix="correct the file") from error
    if not isinstance(values, dict):
        raise ProfileError(
            "a profile is a mapping of sections", where=profile, fix="correct the file"
        )
    lines = dict(_lines(node)) if isinstance(node, yaml.MappingNode) else {}
    for section, inner in values.items():
        if isinstance(inner, dict) and inner:
            named = {f"{section}.{name}": value for name, value in inner.items()}
        else:
            named = {str(section): inner}
        for name, value in named.items():
            line = f":{lines[name]}" if name in lines else ""
            yield FieldValue(name, value, path.name + line)


def _lines(node: yaml.MappingNode, before: str = "") -> Iterator[tuple[str, int]]:
    """The dotted names of a document's keys, two levels deep, and their lines."""
    for key, value in node.value:
        yield f"{before}{key.value}", key.start_mark.line + 1
        if isinstance(value, yaml.MappingNode) and not before:
            yield from _lines(value, f"{key.value}.")


def _takes_text(annotation: Any) -> bool:
    """Whether a text is a value of this type as it stands."""
    is_union = get_origin(annotation) in (Union, UnionType)
    kinds = get_args(annotation) if is_union else (annotation,)
    return any(kind is str or get_origin(kind) is Literal for kind in kinds)


def _parsed(value: Any) -> Any:
    """The value that a text stands for in YAML; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError:
        return value
