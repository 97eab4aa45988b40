"""Resource `checkpoints`: the artifact root, and the models that live in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from refine_dagster.models.language_model import (
    ModelRef,
    checkpoint_folder,
    registered_base,
    registered_policy,
)
from refine_dagster.warehouse.checkpoints import CheckpointStore


class CheckpointsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Folders named by content hash under one root."""

    root: str = Field(description="The artifact root; made on first use.")

    def store(self) -> CheckpointStore:
        """The engine's store on this root."""
        return CheckpointStore(Path(self.root))

    def folder(self, asset: str, content_hash: str) -> Path:
        """The folder of a registered checkpoint (`registered_models.checkpoint_folder`)."""
        return checkpoint_folder(self.store(), asset, content_hash)

    def base_model(self, row: dict[str, Any]) -> ModelRef:
        """The model that a row of `base_model` speaks of (`registered_models.registered_base`)."""
        return registered_base(self.store(), row)

    def adapted_model(self, asset: str, content_hash: str, base: ModelRef) -> ModelRef:
        """A model trained from `base` (`registered_models.registered_policy`)."""
        return registered_policy(self.store(), asset, content_hash, base)
