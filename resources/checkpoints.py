"""Resource `checkpoints`: the folder under which trained models are kept."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from pydantic import Field

from refine_dagster.warehouse.checkpoints import CheckpointStore


class CheckpointsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Folders named by content hash under one root."""

    root: str = Field(description="The artifact root; made on first use.")

    def store(self) -> CheckpointStore:
        """The engine's store on this root."""
        return CheckpointStore(Path(self.root))
