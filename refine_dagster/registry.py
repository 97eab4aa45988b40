"""Registries: what this project offers by name, and what other packages add to it.

A registry maps a name to a value of one kind, such as a backend or a reward part. Another package
adds its own with an entry point of the registry's group:

    [project.entry-points."refine_dagster.rewards"]
    brevity = "my_package.rewards:brevity"

Entry points are listed without importing the package; one is imported when its name is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar

from refine_dagster.errors import RefineError, first_line

T = TypeVar("T", bound=Callable[..., object])

OWN_PACKAGE = "refine-dagster"


class RegistryError(RefineError):
    """A name that no package provides, that several provide, or whose package is broken."""


@dataclass(frozen=True)
class Registered(Generic[T]):
    """An entry of a registry.

    Attributes:
        name: the name it has in the registry.
        value: the value itself.
        package: the distribution that provides it.
        version: the value's attribute `version` where it has one, else the distribution's version;
            empty for this project's own entries, whose code the data versions cover already.
    """

    name: str
    value: T
    package: str
    version: str


class Registry(Generic[T]):
    """Values of one kind by name.

    Args:
        group: the entry point group, such as `refine_dagster.rewards`.
        noun: what a value is called in messages, such as `reward part`.
        own: the values that this project provides.
    """

    def __init__(self, group: str, noun: str, own: Mapping[str, T]) -> None:
        self.group = group
        self.noun = noun
        self._own = dict(own)

    def names(self) -> list[str]:
        """Every name, sorted; nothing is imported."""
        return sorted({*self._own, *(point.name for point in entry_points(group=self.group))})

    def get(self, name: str) -> T:
        """The value registered under `name`; see `entry` for the errors."""
        return self.entry(name).value

    def entry(self, name: str) -> Registered[T]:
        """The value registered under `name`, with the package that provides it.

        Raises:
            RegistryError: no package provides the name, more than one does, or the value cannot be
                imported or called.
        """
        points = list(entry_points(group=self.group, name=name))
        packages = sorted(_package(point) for point in points)
        if name in self._own:
            packages.insert(0, OWN_PACKAGE)
        if len(packages) > 1:
            raise RegistryError(
                f"{len(packages)} packages provide the {self.noun} {name!r}: {', '.join(packages)}",
                where=f"entry points of the group {self.group}",
                fix="uninstall all of them but one",
            )
        if name in self._own:
            value = self._own[name]
            return Registered(name, value, OWN_PACKAGE, str(getattr(value, "version", "")))
        if not points:
            raise RegistryError(
                f"no {self.noun} is called {name!r}; known: {', '.join(self.names()) or 'none'}",
                fix=f"correct the name, or install the package that provides it in {self.group}",
            )
        return self._loaded(points[0])

    def _loaded(self, point: EntryPoint) -> Registered[T]:
        package = _package(point)
        where = f"entry point {point.name} = {point.value} of the group {self.group}"
        fix = f"repair or uninstall {package}"
        try:
            value = point.load()
        # Importing another package runs its code, which may raise anything.
        except Exception as error:
            raise RegistryError(
                f"the {self.noun} {point.name!r} of {package} cannot be imported: "
                f"{type(error).__name__}: {first_line(error)}",
                where=where,
                fix=fix,
            ) from error
        if not callable(value):
            raise RegistryError(
                f"the {self.noun} {point.name!r} of {package} is of type {type(value).__name__}, "
                "which cannot be called",
                where=where,
                fix=fix,
            )
        declared = getattr(value, "version", None)
        version = point.dist.version if declared is None and point.dist else declared
        return Registered(point.name, value, package, str(version or ""))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module
