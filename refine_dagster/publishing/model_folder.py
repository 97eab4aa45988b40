"""A model of the home as a folder that other tools load as it is.

Merged (the default) it is one model in Hugging Face format. As an adapter it is a PEFT folder that
names its base by Hugging Face id and commit; a base that has none lies in the folder `base` beside
it, named by its whole path. Several adapters on top of each other become one.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refine_dagster.config.models import DeviceConfig
from refine_dagster.errors import RefineError
from refine_dagster.generation.vllm_backend import as_one_adapter
from refine_dagster.hashing import readable_json
from refine_dagster.home import Home
from refine_dagster.language import Language
from refine_dagster.models.device import device_session
from refine_dagster.models.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from refine_dagster.models.language_model import (
    ModelRef,
    check_text_alone,
    load_tokenizer,
    loaded_model,
)
from refine_dagster.publishing.chat_template import (
    answer_template,
    instance_template,
    renders_exactly,
)
from refine_dagster.publishing.home_models import HomeModel, find_model, model_ref
from refine_dagster.publishing.model_card import CardFacts, model_card, read_facts
from refine_dagster.publishing.new_folder import new_folder, whole_path, write_manifest
from refine_dagster.publishing.training_summary import SUMMARY, training_summary
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Layout = Literal["merged", "adapter"]
Dtype = Literal["float32", "bfloat16"]
BASE = "base"
CARD = "README.md"


@dataclass(frozen=True)
class ExportedModel:
    """A written folder; `exact` says whether its chat template gives the training's tokens."""

    folder: Path
    model: HomeModel
    exact: bool


def export_model(
    home: Home,
    name: str,
    to: Path,
    *,
    layout: Layout = "merged",
    dtype: Dtype = "float32",
    licence: str | None = None,
    overwrite: bool = False,
) -> ExportedModel:
    """Write the home's model `name` to the folder `to`, with its tokenizer and its card.

    Args:
        dtype: of merged weights on disk; adapters are merged in float32 whatever it is.
        licence: an SPDX id that the card names; None names none.

    Raises:
        RefineError: there is no such model, or it has no adapter.
        FolderError: `to` cannot be written, or may not be replaced.
    """
    warehouse, store = Warehouse(home.warehouse), CheckpointStore(home.checkpoints)
    model = find_model(warehouse, name)
    ref = model_ref(warehouse, store, model)
    if layout == "adapter" and not ref.adapters:
        raise RefineError(
            "it is a whole model, and has no adapter", where=name, fix="leave --adapter out"
        )
    facts = read_facts(warehouse, model)
    target = whole_path(to)
    with new_folder(target, home, overwrite=overwrite) as folder:
        tokenizer, exact = _tokenizer(ref, model, facts.language)
        if layout == "merged":
            _save_merged(ref, folder, dtype)
        else:
            # PEFT reads a relative path from wherever it is started, so the path is whole.
            base_name = facts.base["model"] if ref.revision else str(target / BASE)
            _save_adapter(ref, folder, base_name, tokenizer)
        _save_tokenizer(tokenizer, folder)
        card = model_card(facts, layout, tokenizer.chat_template, exact, licence)
        (folder / CARD).write_text(card, encoding="utf-8")
        (folder / SUMMARY).write_text(training_summary(facts), encoding="utf-8")
        write_manifest(folder, _about(model, layout, facts))
    return ExportedModel(target, model, exact)


def _about(model: HomeModel, layout: Layout, facts: CardFacts) -> Mapping[str, Any]:
    return {
        "kind": "model",
        "name": model.name,
        "layout": layout,
        "fingerprint": model.fingerprint,
        "checkpoint": model.checkpoint_hash,
        "ledger": {"sequence": facts.sequence, "digest": facts.digest},
    }


def _tokenizer(
    ref: ModelRef, model: HomeModel, language: Language
) -> tuple[PreTrainedTokenizerBase, bool]:
    """The model's tokenizer with its chat template, and whether that renders exactly."""
    tokenizer = load_tokenizer(ref)
    is_policy = model.kind in ("policy", "start")
    if is_policy:
        tokenizer.chat_template = instance_template(tokenizer, language)
    else:
        tokenizer.chat_template = answer_template(tokenizer)
    return tokenizer, renders_exactly(tokenizer, language if is_policy else None)


def _save_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        # Left over from training; a tool that reads tokenizer.json alone would cut texts.
        backend.no_truncation()
        backend.no_padding()
    tokenizer.save_pretrained(folder)


def _save_merged(ref: ModelRef, folder: Path, dtype: Dtype) -> None:
    import torch

    config = DeviceConfig(device="cpu", dtype="float32", deterministic=False)
    with device_session(config) as device, loaded_model(ref, device) as loaded:
        loaded.model.to(getattr(torch, dtype)).save_pretrained(folder)


def _save_adapter(
    ref: ModelRef, folder: Path, base_name: str, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Write all adapters as one; a base without a commit on the Hub is written beside it."""
    check_text_alone(ref)
    base = replace(ref, adapters=())
    if ref.revision is None:
        _save_merged(base, folder / BASE, "float32")
        _save_tokenizer(tokenizer, folder / BASE)
    with tempfile.TemporaryDirectory() as scratch:
        adapter, _ = as_one_adapter(ref.adapters, Path(scratch))
        shutil.copyfile(Path(adapter) / ADAPTER_WEIGHTS, folder / ADAPTER_WEIGHTS)
        config = json.loads((Path(adapter) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    config.update(base_model_name_or_path=base_name, revision=ref.revision, task_type="CAUSAL_LM")
    (folder / ADAPTER_CONFIG).write_text(readable_json(config), encoding="utf-8")
