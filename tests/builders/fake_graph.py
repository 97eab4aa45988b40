"""The pipeline's assets, their real bodies on a real home, with models of the fake kind.

An asset's body is called as Dagster would call it, with a context of what bodies use of Dagster's;
so a run of the whole graph costs a second and not a minute. What the UI shows is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import assets.dataset
import assets.evaluation
import assets.evolution
import assets.feedback
import assets.privacy
from assets.graph import pipeline
from assets.step import PipelineAsset, Step
from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.config.profile import Profile
from refine_dagster.generation.completions import CompletionsStore, GeneratorSession
from refine_dagster.generation.request import Request
from refine_dagster.home import Home
from refine_dagster.models.device import Device, DeviceUse
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse
from resources.models import JudgeResource
from tests.builders.fake_training import fake_training
from tests.builders.fake_writer import FakeWriter
from tests.builders.memory_home import MemoryStore, MemoryWarehouse
from tests.builders.warehouse import new_warehouse


class KilledError(BaseException):
    """The process is gone: nothing may catch this."""


class FakeGraph:
    """The graph in a home.

    Attributes:
        sent: every request that reached a model, in order.
    """

    def __init__(self, warehouse: Any, checkpoints: Path, store: Callable[..., Any]) -> None:
        self.warehouse = warehouse
        self.sent: list[Request] = []
        trainings = warehouse if isinstance(warehouse, Warehouse) else None
        self._checkpoints = CheckpointStore(checkpoints, trainings)
        self._store = store
        self._killed_after: int | None = None
        self._runs = 0

    @classmethod
    def in_home(cls, home: Home) -> FakeGraph:
        """In a home's warehouse, which is made where there is none."""
        found = home.warehouse.exists()
        warehouse = Warehouse(home.warehouse) if found else new_warehouse(home.warehouse)
        return cls(warehouse, home.checkpoints, CompletionsStore)

    @classmethod
    def from_nothing(cls, folder: Path) -> FakeGraph:
        """In memory, but for checkpoints. It reuses nothing, so it can be run once."""
        return cls(MemoryWarehouse(), folder, lambda *_: MemoryStore())

    def run(
        self, profile: Profile, *, until: str | None = None, killed_after: int | None = None
    ) -> None:
        """Materialise the assets, in order.

        Args:
            until: the last of them; None for the whole graph.
            killed_after: how many requests at least are answered; then the run is killed.

        Raises:
            KilledError: the run was killed, while models answered.
        """
        self._runs += 1
        self._killed_after = None if killed_after is None else len(self.sent) + killed_after
        chosen = assets_until(profile, until)
        keys = frozenset(asset.definition.key for asset in chosen)
        run = SimpleNamespace(run_id=f"run {self._runs}", asset_selection=keys)
        with fake_training(), _nothing_shown(), self.warehouse.held():
            for asset in chosen:
                self._materialise(asset, profile, run)

    def _materialise(self, asset: PipelineAsset, profile: Profile, run: SimpleNamespace) -> None:
        definition = asset.definition
        context = SimpleNamespace(
            asset_key=definition.key,
            assets_def=definition,
            run=run,
            log=SimpleNamespace(info=lambda message: None),
            resources=self._resources(profile),
        )
        node: Any = definition.node_def
        node.compute_fn.decorated_fn(context)

    def _resources(self, profile: Profile) -> SimpleNamespace:
        return SimpleNamespace(
            profile=SimpleNamespace(load=lambda: profile),
            warehouse=SimpleNamespace(open=lambda: self.warehouse),
            checkpoints=SimpleNamespace(store=lambda warehouse: self._checkpoints),
            gpu=SimpleNamespace(session=_device),
            generator=SimpleNamespace(
                store=lambda warehouse, run_id, config: self._store(warehouse, run_id),
                session=self._session,
            ),
            judge=JudgeResource(),
        )

    def _session(
        self, ref: ModelRef, device: Device, store: CompletionsStore, config: GeneratorConfig
    ) -> AbstractContextManager[GeneratorSession]:
        backend = FakeWriter(ref.fingerprint, self._send)
        return nullcontext(GeneratorSession(backend, store, ref.fingerprint))

    def _send(self, requests: Sequence[Request]) -> None:
        if self._killed_after is not None and len(self.sent) >= self._killed_after:
            raise KilledError
        self.sent += requests


def assets_until(profile: Profile, last: str | None) -> tuple[PipelineAsset, ...]:
    """The assets up to the one of that key; all for None."""
    graph = pipeline(profile.rounds)
    keys = [asset.facts.key for asset in graph]
    return graph if last is None else graph[: keys.index(last) + 1]


def _device(config: DeviceConfig) -> AbstractContextManager[Device]:
    use = DeviceUse("none", seconds=0.0, peak_memory_mb=0.0)
    return nullcontext(Device("cpu", "float32", 1, True, use=use))


@contextmanager
def _nothing_shown() -> Iterator[None]:
    """Leave out tables, plots and traces for the UI: drawing them costs more than all else."""
    nothing: dict[str, Any] = {}
    with ExitStack() as stack:
        for owner, name, left in (
            (Step, "_pictures", lambda step: nothing),
            (Step, "_pictures_of", lambda step, version: nothing),
            (assets.dataset, "_with_trace", lambda step, result: result),
            (assets.evolution, "_with_calls", lambda step, result: result),
            (assets.feedback, "_pictures", lambda made: nothing),
            (assets.privacy, "audit_plot", lambda report: ""),
        ):
            stack.enter_context(mock.patch.object(owner, name, left))
        yield
