"""What a test without the mark `slow` must not do: train a model, or run the graph.

`make check` runs the tests without the mark. The guard refuses them both, so that the mark cannot
be forgotten; a refusal that the code under test swallows is reported at the end of the test. A
training is any step of a PyTorch optimizer. A run is any set-up of the warehouse resource for one,
any process that is started for the command line's `run`, `ui` or `compare`, and any child of
`tests/pipeline/children.py`.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from itertools import pairwise
from types import ModuleType
from typing import Any

MARK = "slow"
_COMMAND_LINES = ("refine-dagster", "refine_dagster.cli")
_RUNNING = {"run", "ui", "compare"}


class NotMarkedError(Exception):
    """A test without the mark did what needs it."""


class Guard:
    """Refuses training and runs while it is up."""

    def __init__(self) -> None:
        self._up = False
        self._refused: list[str] = []

    def install(self) -> None:
        """Put the watches in place, once for a process; they let everything through at first."""
        sys.addaudithook(self._audit)
        watches = {
            "torch.optim.optimizer": self._watch_optimizers,
            "resources.warehouse": self._watch_runs,
            "tests.pipeline.children": self._watch_children,
        }
        for name in watches.keys() & sys.modules.keys():
            watches[name](sys.modules[name])
        sys.meta_path.insert(0, _OnImport(watches))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Refuse until the end of the block.

        Raises:
            NotMarkedError: something was refused.
        """
        self._up, self._refused = True, []
        try:
            yield
        finally:
            self._up = False
            if self._refused:
                raise NotMarkedError(_told(self._refused[0]))

    def _refuse(self, what: str) -> None:
        if self._up:
            self._refused.append(what)
            raise NotMarkedError(_told(what))

    def _audit(self, event: str, arguments: Sequence[Any]) -> None:
        if self._up and event == "subprocess.Popen" and _runs(arguments[1]):
            self._refuse("ran the command line")

    def _watch_optimizers(self, module: ModuleType) -> None:
        def refuse_step(*_: object) -> None:
            self._refuse("trained a model")

        module.register_optimizer_step_pre_hook(refuse_step)

    def _watch_runs(self, module: ModuleType) -> None:
        """A run of the graph sets the warehouse resource up, whoever starts the run."""
        resource = module.WarehouseResource
        lend = resource.yield_for_execution

        def lend_watched(warehouse: Any, context: Any) -> Any:
            if context.run is not None:
                self._refuse("ran the graph")
            return lend(warehouse, context)

        resource.yield_for_execution = lend_watched

    def _watch_children(self, module: ModuleType) -> None:
        """Children that may be killed are forked from a server that imports everything first."""
        fork = module.fork

        def fork_watched(*arguments: Any) -> Any:
            self._refuse("forked a child")
            return fork(*arguments)

        module.fork = fork_watched  # type: ignore[attr-defined]


class _OnImport(MetaPathFinder):
    """Calls a function with a module right after its import: name of the module -> function."""

    def __init__(self, functions: Mapping[str, Callable[[ModuleType], None]]) -> None:
        self._functions = functions

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's usual spec, with a loader that tells of the import."""
        if name not in self._functions:
            return None
        spec = PathFinder.find_spec(name, path, target)
        assert spec is not None
        assert spec.loader is not None
        spec.loader = _Telling(spec.loader, self._functions[name])
        return spec


class _Telling(Loader):
    def __init__(self, loader: Loader, then: Callable[[ModuleType], None]) -> None:
        self._loader, self._then = loader, then

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._then(module)


def _runs(command: str | bytes | Sequence[Any]) -> bool:
    """Whether the command of a new process makes the graph or parts of it."""
    words: Sequence[Any] = command.split() if isinstance(command, (str, bytes)) else command
    named = [os.fsdecode(word) for word in words]
    return any(
        before.endswith(_COMMAND_LINES) and word in _RUNNING for before, word in pairwise(named)
    )


def _told(what: str) -> str:
    return f"the test {what} without @pytest.mark.{MARK}; `make check` runs only quick tests"
