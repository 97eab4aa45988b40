"""Resource `generator`: the one way to ask a language model anything."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from pydantic import Field

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.completions import Budget, CompletionsStore
from refine_dagster.generation.session import GeneratorSession, open_generator
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.warehouse.warehouse import Warehouse


class GeneratorResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Answers requests from the completions store, and the rest from a model.

    A field left unset follows the profile's `generator` section. What runs the model is set in the
    profile alone, which asset versions name.
    """

    batch_size: int | None = Field(default=None, description="Requests decoded together.")
    max_requests: int | None = Field(default=None, description="Budget of requests for the run.")
    max_tokens: int | None = Field(default=None, description="Budget of tokens for the run.")

    def config(self, profile: GeneratorConfig) -> GeneratorConfig:
        """The profile's config with this resource's settings over them."""
        own = {name: getattr(self, name) for name in ("batch_size", "max_requests", "max_tokens")}
        return profile.changed("generator", own, "resource generator")

    def store(
        self, warehouse: Warehouse, run_id: str, profile: GeneratorConfig
    ) -> CompletionsStore:
        """The completions store for a run, under the run's budget."""
        config = self.config(profile)
        return CompletionsStore(warehouse, run_id, Budget(config.max_requests, config.max_tokens))

    @contextmanager
    def session(
        self, ref: ModelRef, device: Device, store: CompletionsStore, profile: GeneratorConfig
    ) -> Iterator[GeneratorSession]:
        """A loaded model that answers through the store."""
        with open_generator(ref, device, store, self.config(profile)) as session:
            yield session
