"""Config fields whose values are names in a registry, and the packages behind them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from refine_dagster.registry import Registry, RegistryError


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
    found: dict[str, str] = {}
    for section in sections:
        for field_name, field in type(section).model_fields.items():
            for marker in field.metadata:
                if isinstance(marker, Registered):
                    versions = marker.registry.versions(*_names(getattr(section, field_name)))
                    noun = marker.registry.noun
                    found |= {f"{noun} {name}": version for name, version in versions.items()}
    return {"plug_ins": found} if found else {}


def _names(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
