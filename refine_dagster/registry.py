"""Registries: what this project offers by name, and what other packages add to it.

Another package adds a value with an entry point of the registry's group:

    [project.entry-points."refine_dagster.backends"]
    echo = "my_package.backends:echo_backend"

A value is imported when its name is asked for, so config is checked against the names without
importing anything. `docs/extend.md` shows how to write a value of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from refine_dagster.errors import RefineError, first_line

T = TypeVar("T")

OWN_PACKAGE = "refine-dagster"


class RegistryError(RefineError):
    """A name that no package provides, that several provide, or whose package is broken."""


@dataclass(frozen=True)
class Registered(Generic[T]):
    """An entry of a registry, and the distribution that provides it.

    `version` is the value's own attribute where it has one, else the distribution's; empty for
    this project's own entries, whose code the data versions cover already.
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
        own: this project's values: name -> `module:attribute`.
        needs: an attribute that every value has.
    """

    def __init__(
        self, group: str, noun: str, own: Mapping[str, str], needs: str = "__call__"
    ) -> None:
        self.group = group
        self.noun = noun
        self._own = {name: EntryPoint(name, value, group) for name, value in own.items()}
        self._needs = needs

    @property
    def own(self) -> tuple[str, ...]:
        """The names of this project's values, as declared."""
        return tuple(self._own)

    def names(self) -> list[str]:
        """Every name, sorted; nothing is imported."""
        return sorted({*self._own, *(point.name for point in entry_points(group=self.group))})

    def require(self, name: str) -> str:
        """The name itself; a `RegistryError` if no package provides it. Nothing is imported."""
        if name in self._own or entry_points(group=self.group, name=name):
            return name
        raise RegistryError(
            f"no {self.noun} is called {name!r}; known: {', '.join(self.names()) or 'none'}",
            fix=f"correct the name, or install the package that provides it in {self.group}",
        )

    def get(self, name: str) -> T:
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
            value = self._own[name].load()
            return Registered(name, value, OWN_PACKAGE, str(getattr(value, "version", "")))
        self.require(name)
        return self._loaded(points[0])

    def versions(self, *names: str) -> dict[str, str]:
        """Name -> package and version of those that other packages provide, for manifests.

        This project's own are left out: what they make is named by the config and the revisions.
        """
        return {
            entry.name: f"{entry.package} {entry.version}".rstrip()
            for entry in (self.entry(name) for name in names if name not in self._own)
        }

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
        if not hasattr(value, self._needs):
            lacks = "cannot be called" if self._needs == "__call__" else f"has no {self._needs}"
            raise RegistryError(
                f"the {self.noun} {point.name!r} of {package} is of type {type(value).__name__}, "
                f"which {lacks}",
                where=where,
                fix=fix,
            )
        declared = getattr(value, "version", None)
        version = point.dist.version if declared is None and point.dist else declared
        return Registered(point.name, value, package, str(version or ""))


def _package(point: EntryPoint) -> str:
    return point.dist.name if point.dist else point.module


# (model, device, config of the generator) -> context manager of a `generation.request.Backend`.
BACKENDS: Registry[Callable[..., Any]] = Registry(
    "refine_dagster.backends",
    "backend",
    {
        "transformers": "refine_dagster.generation.transformers_backend:transformers_backend",
        "vllm": "refine_dagster.generation.vllm_backend:vllm_backend",
        "endpoint": "refine_dagster.generation.endpoint.backend:endpoint_backend",
    },
)

# `training.policy_steps.PolicyTask` -> `training.policy_steps.PolicyTraining`.
ALGORITHMS: Registry[Callable[..., Any]] = Registry(
    "refine_dagster.algorithms",
    "algorithm",
    {
        "grpo": "refine_dagster.training.trl_policy:train_by_grpo",
        "rloo": "refine_dagster.training.trl_policy:train_by_rloo",
        "ppo": "refine_dagster.training.ppo:train_by_ppo",
        "dpo": "refine_dagster.training.dpo:train_by_dpo",
    },
)

# reward(prompts, completions, **columns) -> list[float]; see `refine_af.reward`.
REWARD_PARTS: Registry[Callable[..., Any]] = Registry(
    "refine_dagster.rewards",
    "reward part",
    {"influence": "refine_dagster.training.influence:Influence"},
)

# Values are `teams_rl.operations.Operation`.
OPERATIONS: Registry[Any] = Registry(
    "refine_dagster.operations",
    "operation",
    {
        "breadth": "refine_dagster.teams_rl.operations:BREADTH",
        "constraints": "refine_dagster.teams_rl.operations:CONSTRAINTS",
        "deepening": "refine_dagster.teams_rl.operations:DEEPENING",
        "concretizing": "refine_dagster.teams_rl.operations:CONCRETIZING",
        "reasoning": "refine_dagster.teams_rl.operations:REASONING",
        "complicate_input": "refine_dagster.teams_rl.operations:COMPLICATE_INPUT",
    },
    needs="prompt",
)
