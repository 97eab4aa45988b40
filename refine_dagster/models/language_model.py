"""A causal language model on disk: finding it, naming it by content, loading it, adapting it.

The fingerprint hashes the files that decide what the model says (config, weights, tokenizer, and
the adapter's), not where they lie: the same model in two folders has one name, and every completion
and every row that came from it carries that name. A row of the warehouse names a checkpoint by its
content; `registered_base` and `registered_policy` find that model in the artifact root.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError, first_line
from refine_dagster.hashing import file_hash, json_hash, readable_json
from refine_dagster.models import architecture, special_tokens
from refine_dagster.models.device import Device, release_memory
from refine_dagster.warehouse.checkpoints import CheckpointError, CheckpointStore

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

CONFIG = ("config.json", "generation_config.json")
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
TOKENIZER_EXTRAS = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "merges.txt",
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
# Names of a text model's weights within a multimodal one -> their own.
_TEXT_WEIGHTS = {r"^(model\.)?language_model\.(model\.)?": "model."}


class ModelError(RefineError):
    """A model cannot be found, is not whole, or cannot be loaded."""


@dataclass(frozen=True)
class ModelRef:
    """A model on this machine's disk, in Hugging Face format.

    Attributes:
        fingerprint: sha256 over config, weights, tokenizer and adapters, 64 hex digits.
        revision: the commit that a Hugging Face id was resolved to; None for a folder.
        adapters: folders of PEFT adapters to merge in, in this order: each was trained on the model
            with those before it.
    """

    path: str
    fingerprint: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()


@dataclass
class LoadedModel:
    """A model in memory, in eval mode, with its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: ModelRef
    device: Device


def resolve_model(id_or_path: str, revision: str | None = None) -> ModelRef:
    """Find a model: an existing folder, else a Hugging Face id (downloaded, or from its cache).

    Raises:
        ModelError: no such folder or id, no network, or config.json, weights or tokenizer missing.
    """
    folder = Path(id_or_path).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise ModelError(
                f"a folder has no revisions, and {revision!r} was asked for",
                where=id_or_path,
                fix="unset base_model.revision, or name a Hugging Face id",
            )
        return ModelRef(str(folder.resolve()), _fingerprint(folder, id_or_path))
    if folder.is_absolute() or id_or_path.startswith((".", "~")) or id_or_path.count("/") != 1:
        raise ModelError(
            "no such folder",
            where=id_or_path,
            fix="name an existing model folder, or a Hugging Face id such as `owner/name`",
        )
    folder = _download(id_or_path, revision)
    # The cache names a snapshot's folder by its commit.
    return ModelRef(str(folder), _fingerprint(folder, id_or_path), revision=folder.name)


def as_model(model: ModelRef | Path | str) -> ModelRef:
    """A model as it is, or found by its folder or Hugging Face id; see `resolve_model`."""
    return model if isinstance(model, ModelRef) else resolve_model(str(model))


def with_adapter(base: ModelRef, folder: Path) -> ModelRef:
    """The model `base` with its adapters, and the PEFT adapter in `folder` on top.

    Raises:
        ModelError: the folder is no adapter.
    """
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{name} is missing", where=str(folder), fix="name an adapter folder")
    hashes = [file_hash(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    fingerprint = json_hash(["adapter", base.fingerprint, *hashes])
    adapters = (*base.adapters, str(folder.resolve()))
    return replace(base, fingerprint=fingerprint, adapters=adapters)


@contextmanager
def loaded_model(ref: ModelRef, device: Device) -> Iterator[LoadedModel]:
    """Load a model onto the device, adapters merged in; free it at the end.

    Raises:
        ModelError: the files are there, yet no model can be built from them.
    """
    loaded = LoadedModel(_load(ref, device), load_tokenizer(ref), ref, device)
    try:
        yield loaded
    finally:
        del loaded.model
        release_memory(device)


def save_adapter(peft_model: PeftModel, folder: Path) -> None:
    """Write a PEFT model's adapter, equal bytes for equal values.

    PEFT's own writer lists `target_modules` in set order and names the base model's folder.
    """
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(peft_model)
    weights = {
        name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(state.items())
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config = peft_model.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=None, inference_mode=True)
    (folder / ADAPTER_CONFIG).write_text(readable_json(_plain(config)), encoding="utf-8")


def _plain(value: Any) -> Any:
    """A config value as JSON: sets sorted, enums by their value."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)


def _fingerprint(folder: Path, shown: str) -> str:
    """Hash the files that decide what the model says; `shown` names the folder in errors."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    weights = _matching(names, SAFETENSORS) or _matching(names, PICKLED)
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if not any(name.endswith((".safetensors", ".bin")) for name in weights):
        missing.append("weights (model.safetensors or pytorch_model.bin)")
    if not _matching(names, TOKENIZER):
        missing.append("a tokenizer (tokenizer.json, tokenizer.model or vocab.json)")
    missing += [f"weight file {name}" for name in _absent_shards(folder, weights)]
    if missing:
        hint = "an adapter's folder cannot stand alone; " if ADAPTER_CONFIG in names else ""
        raise ModelError(
            f"not a whole model, missing: {', '.join(missing)}",
            where=shown,
            fix=f"{hint}name a folder that `save_pretrained` of model and tokenizer wrote",
        )
    chosen = sorted({*weights, *_matching(names, CONFIG + TOKENIZER + TOKENIZER_EXTRAS)})
    return json_hash({name: file_hash(folder / name) for name in chosen})


def _matching(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _absent_shards(folder: Path, weights: list[str]) -> list[str]:
    """Weight files that an index lists and the folder lacks."""
    absent: set[str] = set()
    for name in weights:
        if name.endswith(".index.json"):
            try:
                shards = set(json.loads((folder / name).read_text("utf-8"))["weight_map"].values())
            except (json.JSONDecodeError, KeyError, AttributeError) as error:
                raise ModelError(
                    f"the weight index is not readable: {error}",
                    where=str(folder / name),
                    fix="download the model again",
                ) from error
            absent |= {shard for shard in shards if not (folder / shard).is_file()}
    return sorted(absent)


def _download(name: str, revision: str | None) -> Path:
    """Fetch a Hugging Face id's files (or find them in the cache) and return their folder."""
    import httpx
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        for weights in (SAFETENSORS, PICKLED):
            wanted = [*CONFIG, *weights, *TOKENIZER, *TOKENIZER_EXTRAS]
            # Models lie at the top of a repository; other formats lie in its folders.
            folder = snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
            )
            if any(Path(folder).glob("*.safetensors")):
                break
    except (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        httpx.TransportError,
    ) as error:
        what = (
            "the model is not in the local cache and Hugging Face cannot be reached "
            f"({type(error).__name__})"
        )
        fix = (
            "go online (and unset HF_HUB_OFFLINE), name a model folder, or take base_model.id "
            "`offline`"
        )
        if isinstance(error, GatedRepoError):
            what, fix = "the model is gated", "accept its licence and log in with `hf auth login`"
        elif isinstance(error, RevisionNotFoundError):
            what, fix = f"there is no revision {revision!r}", "correct base_model.revision"
        elif isinstance(error, (RepositoryNotFoundError, HFValidationError)):
            what, fix = "neither a folder nor a Hugging Face id that can be read", "check the name"
        raise ModelError(what, where=name, fix=fix) from error
    return Path(folder)


def _load(ref: ModelRef, device: Device) -> PreTrainedModel:
    from safetensors import SafetensorError
    from torch import OutOfMemoryError
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    config = _whole_config(ref)
    text = config.get_text_config()
    # The text model inside a multimodal one has a prefix there.
    within = {} if text is config else {"config": text, "key_mapping": _TEXT_WEIGHTS}
    # Its bars would break the display of `progress`.
    logging.disable_progress_bar()
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            ref.path,
            dtype=device.torch_dtype,
            local_files_only=True,
            output_loading_info=True,
            **within,
            **quantized(device),
        )
        if missing := sorted(report["missing_keys"]):
            raise ValueError(f"{len(missing)} weights are missing, {missing[0]} the first")
        if within:
            # `save_pretrained` would put the prefix back.
            del model._weight_conversions
        if ref.adapters:
            from peft import PeftModel

            for folder in ref.adapters:
                model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        if device.quantization == "none":
            model.to(device.name)
    except OutOfMemoryError as error:
        raise ModelError(
            "the card's memory has no room for the model's weights",
            where=ref.path,
            fix="set device.quantization to `nf4`, raise device.memory_share, end what else runs "
            "on the card, or take a smaller model",
        ) from error
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(
            f"the model cannot be loaded: {first_line(error)}",
            where=ref.adapters[-1] if ref.adapters else ref.path,
            fix="check that it is a causal language model that this transformers version knows",
        ) from error
    finally:
        logging.set_verbosity(verbosity)
    architecture.settle(model)
    model.eval()
    return model


def quantized(device: Device) -> dict[str, Any]:
    """Arguments of `from_pretrained` that hold the weights as the device says.

    `nf4` is QLoRA's setting (arXiv 2305.14314): four-bit NormalFloat with double quantization, and
    arithmetic in the device's dtype. An adapter merged into such a model is rounded to four bits.
    """
    if device.quantization == "none":
        return {}
    from transformers import BitsAndBytesConfig

    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=device.quantization,
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=device.torch_dtype,
        ),
        "device_map": {"": device.name},
    }


@contextmanager
def reading(ref: ModelRef, what: str, fix: str) -> Iterator[None]:
    """Turn the errors of reading a file of a model into a `ModelError`."""
    try:
        yield
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"the model's {what} cannot be read: {first_line(error)}", where=ref.path, fix=fix
        ) from error


def load_config(ref: ModelRef) -> PreTrainedConfig:
    """A model's config; of a multimodal model that of its text model, which alone is used.

    Raises:
        ModelError: it cannot be read, or is of an unknown architecture.
    """
    return _whole_config(ref).get_text_config()


def _whole_config(ref: ModelRef) -> PreTrainedConfig:
    from transformers import AutoConfig

    with reading(ref, "config", "check config.json, and that this transformers version knows it"):
        return AutoConfig.from_pretrained(ref.path, local_files_only=True)


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with the special tokens that `special_tokens.settle` promises.

    Raises:
        ModelError: its files cannot be read, or it cannot be made so.
    """
    from transformers import AutoTokenizer

    with reading(ref, "tokenizer", "check the tokenizer's files"):
        tokenizer = AutoTokenizer.from_pretrained(ref.path, local_files_only=True)
        special_tokens.settle(tokenizer, load_config(ref))
    return tokenizer


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
            fix=f"materialise {asset} again: its manifest says how it was trained",
        )
    return path


def registered_base(store: CheckpointStore, row: Mapping[str, Any]) -> ModelRef:
    """The model of a row of `base_model`, checked against its fingerprint.

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


def trained_from(base: ModelRef, folder: Path) -> ModelRef:
    """What a training that began with `base` left in `folder`: an adapter, or a whole model."""
    if not (folder / ADAPTER_CONFIG).is_file():
        return resolve_model(str(folder))
    return with_adapter(base, folder)


def registered_policy(
    store: CheckpointStore, asset: str, content_hash: str, base: ModelRef
) -> ModelRef:
    """The model of a registered checkpoint that was trained from `base`."""
    return trained_from(base, checkpoint_folder(store, asset, content_hash))
