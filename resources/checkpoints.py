"""Resource `checkpoints`: the artifact root, and the models that live in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from refine_dagster.language_model import ModelError, ModelRef, resolve_model, with_adapter
from refine_dagster.lineage.checkpoints import CheckpointError, CheckpointStore

ADAPTER_CONFIG = "adapter_config.json"


class CheckpointsResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Folders named by content hash under one root."""

    root: str = Field(description="The artifact root; made on first use.")

    def store(self) -> CheckpointStore:
        """The engine's store on this root."""
        return CheckpointStore(Path(self.root))

    def folder(self, asset: str, content_hash: str) -> Path:
        """The folder of a registered checkpoint.

        Raises:
            CheckpointError: it is gone.
        """
        path = self.store().path_of(asset, content_hash)
        if not path.is_dir():
            raise CheckpointError(
                "the checkpoint's folder is gone",
                where=str(path),
                fix=f"materialise {asset} again: it is made anew from its manifest",
            )
        return path

    def base_model(self, row: dict[str, Any]) -> ModelRef:
        """The model that a row of `base_model` speaks of, checked against its fingerprint.

        Raises:
            ModelError: the files are not those that the row was made from.
        """
        if row["checkpoint_hash"] is not None:
            ref = resolve_model(str(self.folder("base_model", row["checkpoint_hash"])))
        else:
            ref = resolve_model(row["model"], row["revision"])
        if ref.fingerprint != row["fingerprint"]:
            raise ModelError(
                "the model's files have changed since base_model was materialised",
                where=ref.path,
                fix="materialise base_model again",
            )
        return ref

    def adapted_model(self, asset: str, content_hash: str, base: ModelRef) -> ModelRef:
        """The base model with a registered adapter, or the whole model that was trained instead."""
        folder = self.folder(asset, content_hash)
        if not (folder / ADAPTER_CONFIG).is_file():
            return resolve_model(str(folder))
        return with_adapter(base, folder)
