"""Resources that run models: `gpu`, `generator` and `judge`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg
from pydantic import Field

from refine_dagster.config.models import DeviceConfig, GeneratorConfig
from refine_dagster.config.profile import Profile
from refine_dagster.generation.budget import Budget
from refine_dagster.generation.completions import (
    CompletionsStore,
    GeneratorSession,
    open_generator,
)
from refine_dagster.judge.judge import Scores
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import ModelRef
from refine_dagster.refine_af.feedback import Feedback, feedback_of, open_judge
from refine_dagster.refine_af.reward import OpenedPart
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse


class GpuResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The device; a field left unset follows the profile's `device` section."""

    device: str | None = Field(
        default=None, description="Where models run: auto, cpu, cuda or mps."
    )
    dtype: str | None = Field(
        default=None, description="Dtype of weights: float32, bfloat16 or float16."
    )
    threads: int | None = Field(default=None, description="CPU threads; 0 takes what is free.")
    deterministic: bool | None = Field(
        default=None, description="Refuse operations without a deterministic implementation."
    )
    quantization: str | None = Field(
        default=None, description="Weights of language models: none, or nf4 for four bits."
    )
    memory_share: float | None = Field(
        default=None, description="Largest share of the card's memory a session may take."
    )

    def config(self, profile: DeviceConfig) -> DeviceConfig:
        """The profile's config with this resource's settings over them."""
        own = {name: getattr(self, name) for name in DeviceConfig.model_fields}
        return profile.changed("device", own, "resource gpu")

    @contextmanager
    def session(self, profile: DeviceConfig) -> Iterator[Device]:
        """Open the device; at the end its memory is free and every setting is as before."""
        with device_session(self.config(profile)) as device:
            yield device


class GeneratorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Answers requests from the completions store, and the rest from a model.

    A field left unset follows the profile's `generator` section. What runs the model is set in the
    profile alone, which asset versions name.
    """

    batch_size: int | None = Field(default=None, description="Requests decoded together.")
    max_requests: int | None = Field(default=None, description="Budget of requests for the run.")
    max_tokens: int | None = Field(default=None, description="Budget of tokens for the run.")
    max_cost: float | None = Field(default=None, description="Budget of money for the run.")

    def config(self, profile: GeneratorConfig) -> GeneratorConfig:
        """The profile's config with this resource's settings over them."""
        names = ("batch_size", "max_requests", "max_tokens", "max_cost")
        own = {name: getattr(self, name) for name in names}
        return profile.changed("generator", own, "resource generator")

    def store(
        self, warehouse: Warehouse, run_id: str, profile: GeneratorConfig
    ) -> CompletionsStore:
        """The completions store for a run, under the run's budget."""
        config = self.config(profile)
        return CompletionsStore(warehouse, run_id, Budget.of(config))

    @contextmanager
    def session(
        self, ref: ModelRef, device: Device, store: CompletionsStore, profile: GeneratorConfig
    ) -> Iterator[GeneratorSession]:
        """A loaded model that answers through the store."""
        with open_generator(ref, device, store, self.config(profile)) as session:
            yield session


class JudgeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Loads the judge that a row of `feedback_judge` stands for."""

    @contextmanager
    def session(
        self,
        row: dict[str, Any],
        checkpoints: CheckpointStore,
        device: Device,
        profile: Profile,
        base: ModelRef,
        base_scores: Sequence[Scores] = (),
        opened: Mapping[str, OpenedPart] | None = None,
    ) -> Iterator[Feedback]:
        """The loaded judge, the reward rule and the format gate.

        Args:
            row: the live row of `feedback_judge`.
            base: the base model, which a frozen judge reads with.
            base_scores: the base policy's scores, over which `reward.whiten` standardises.
            opened: functions of reward parts that need a model.
        """
        with open_judge(row, checkpoints, device, profile.judge, base) as judge:
            yield feedback_of(judge, profile.reward, base_scores, opened)
