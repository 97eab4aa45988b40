"""The models that rows of the warehouse speak of, found in the artifact root.

A row names a checkpoint by its content; these functions turn the name into a model on disk, and say
which asset makes it again where its folder is gone.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refine_dagster.language_model import (
    ADAPTER_CONFIG,
    ModelError,
    ModelRef,
    resolve_model,
    with_adapter,
)
from refine_dagster.lineage.checkpoints import CheckpointError, CheckpointStore


def checkpoint_folder(store: CheckpointStore, asset: str, content_hash: str) -> Path:
    """The folder of a registered checkpoint.

    Raises:
        CheckpointError: it is gone.
    """
    path = store.path_of(asset, content_hash)
    if not path.is_dir():
        raise CheckpointError(
            "the checkpoint's folder is gone",
            where=str(path),
            fix=f"materialise {asset} again: it is made anew from its manifest",
        )
    return path


def registered_base(store: CheckpointStore, row: Mapping[str, Any]) -> ModelRef:
    """The model that a row of `base_model` speaks of, checked against its fingerprint.

    Raises:
        ModelError: the files are not those that the row was made from.
    """
    if row["checkpoint_hash"] is not None:
        ref = resolve_model(str(checkpoint_folder(store, "base_model", row["checkpoint_hash"])))
    else:
        ref = resolve_model(row["model"], row["revision"])
    if ref.fingerprint != row["fingerprint"]:
        raise ModelError(
            "the model's files have changed since base_model was materialised",
            where=ref.path,
            fix="materialise base_model again",
        )
    return ref


def registered_policy(
    store: CheckpointStore, asset: str, content_hash: str, base: ModelRef
) -> ModelRef:
    """The base model with a registered adapter, or the whole model that was trained instead."""
    folder = checkpoint_folder(store, asset, content_hash)
    if not (folder / ADAPTER_CONFIG).is_file():
        return resolve_model(str(folder))
    return with_adapter(base, folder)
