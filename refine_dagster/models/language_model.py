"""A causal language model on disk: finding it, naming it by content, loading it, adapting it.

The fingerprint hashes the files that decide what the model says, not where they lie: the same model
in two folders has one name, and every completion and every row that came from it carries that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.hashing import json_hash, readable_json, unchanged_file_hash
from refine_dagster.models import architecture, special_tokens
from refine_dagster.models.conversion import converted
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.files import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    ModelError,
    download,
    fingerprint_of,
)
from refine_dagster.models.known_models import KNOWN, found_folder
from refine_dagster.models.refusals import refuse_by_config
from refine_dagster.warehouse.checkpoints import CheckpointStore

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

MOST_QUOTED = 200
# Names of a text model's weights within a multimodal one -> their own.
_TEXT_WEIGHTS = {r"^(model\.)?language_model\.(model\.)?": "model."}


@dataclass(frozen=True)
class ModelRef:
    """A model on this machine's disk, in Hugging Face format.

    Attributes:
        fingerprint: sha256 over config, weights, tokenizer and adapters, 64 hex digits.
        revision: the commit that a Hugging Face id was resolved to; None for a folder.
        adapters: folders of PEFT adapters to merge in, in this order: each was trained on the model
            with those before it.
        is_trained: whether all weights were trained in a run, so that they lie nowhere else.
    """

    path: str
    fingerprint: str
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    is_trained: bool = field(default=False, compare=False)


@dataclass
class LoadedModel:
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    ref: ModelRef
    device: Device


def resolve_model(id_or_path: str, revision: str | None = None, *, local: bool = False) -> ModelRef:
    """Find a model: a folder, a .gguf file, a name of `KNOWN`, else a Hugging Face id.

    An id is downloaded, or found in its cache. A .gguf file is converted once into the user's cache
    (`conversion.converted`). With `local` nothing is downloaded or converted.

    Raises:
        ModelError: no such folder or id, no network, or config.json, weights or tokenizer missing;
            a .gguf file that cannot be converted, or a known model that was not fetched.
    """
    folder = Path(id_or_path).expanduser()
    if id_or_path in KNOWN and not folder.exists():
        folder = found_folder(id_or_path)
    if folder.is_dir() or folder.is_file():
        if revision is not None:
            raise ModelError(
                f"a folder has no revisions, and {revision!r} was asked for",
                where=id_or_path,
                fix="unset base_model.revision, or name a Hugging Face id",
            )
        if folder.is_file():
            folder = converted(folder, local)
        return ModelRef(str(folder.resolve()), fingerprint_of(folder, id_or_path))
    if folder.is_absolute() or id_or_path.startswith((".", "~")) or id_or_path.count("/") != 1:
        raise ModelError(
            "no such folder",
            where=id_or_path,
            fix="name an existing model folder, or a Hugging Face id such as `owner/name`",
        )
    folder = download(id_or_path, revision, local)
    # The cache names a snapshot's folder by its commit.
    return ModelRef(str(folder), fingerprint_of(folder, id_or_path), revision=folder.name)


def as_model(model: ModelRef | Path | str) -> ModelRef:
    """A model as it is, or found by its folder or Hugging Face id; see `resolve_model`."""
    return model if isinstance(model, ModelRef) else resolve_model(str(model))


def with_adapter(base: ModelRef, folder: Path) -> ModelRef:
    """The model `base` with its adapters, and the PEFT adapter in `folder` on top."""
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise ModelError(f"{name} is missing", where=str(folder), fix="name an adapter folder")
    hashes = [unchanged_file_hash(folder / name) for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
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


def _load(ref: ModelRef, device: Device) -> PreTrainedModel:
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
                # PEFT has frozen them.
                model.requires_grad_(True)
        if device.quantization == "none":
            model.to(device.name)
    except OutOfMemoryError as error:
        raise ModelError(
            "the card's memory has no room for the model's weights",
            where=ref.path,
            fix="set device.quantization to `nf4`, raise device.memory_share, end what else runs "
            "on the card, or take a smaller model",
        ) from error
    except _unreadable() as error:
        raise ModelError(
            f"the model cannot be loaded: {_quoted(error)}",
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


def _unreadable() -> tuple[type[Exception], ...]:
    """What transformers raises for folders that it cannot read: wrong values reach its sums."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        ArithmeticError,
        AssertionError,
        ImportError,
        RuntimeError,
        SafetensorError,
        StrictDataclassError,
    )


def _quoted(error: Exception) -> str:
    return " ".join(str(error).split())[:MOST_QUOTED] or type(error).__name__


@contextmanager
def reading(ref: ModelRef, what: str, fix: str) -> Iterator[None]:
    """Turn the errors of reading a file of a model into a `ModelError`."""
    try:
        yield
    except _unreadable() as error:
        raise ModelError(
            f"the model's {what} cannot be read: {_quoted(error)}",
            where=ref.path,
            fix=fix,
        ) from error


def check_text_alone(ref: ModelRef) -> None:
    """Refuse a multimodal model where its weights are not loaded by this module.

    Raises:
        ModelError: it is one.
    """
    if (config := _whole_config(ref)).get_text_config() is not config:
        raise ModelError(
            f"vLLM loads all of a multimodal model ({config.model_type}), and is not tried on it",
            where=ref.path,
            fix="set generator.backend to `transformers` and reinforcement.rollout_engine to "
            "`policy`, or save its text model and name that folder",
        )


def load_config(ref: ModelRef) -> PreTrainedConfig:
    """A model's config; of a multimodal model that of its text model, which alone is used."""
    return _whole_config(ref).get_text_config()


def _whole_config(ref: ModelRef) -> PreTrainedConfig:
    from transformers import AutoConfig

    refuse_by_config(Path(ref.path))
    with reading(ref, "config", "check config.json, and that this transformers version knows it"):
        return AutoConfig.from_pretrained(ref.path, local_files_only=True)


def load_tokenizer(ref: ModelRef) -> PreTrainedTokenizerBase:
    """A model's tokenizer, with the special tokens that `special_tokens.settle` promises."""
    from transformers import AutoTokenizer

    with reading(ref, "tokenizer", "check the tokenizer's files"):
        tokenizer = AutoTokenizer.from_pretrained(ref.path, local_files_only=True)
        special_tokens.settle(tokenizer, load_config(ref))
    return tokenizer


def registered_base(store: CheckpointStore, row: Mapping[str, Any]) -> ModelRef:
    """The model of a row of `base_model`, checked against its fingerprint."""
    if row["checkpoint_hash"] is not None:
        ref = resolve_model(str(store.verified_folder("base_model", row["checkpoint_hash"])))
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
        return replace(resolve_model(str(folder)), is_trained=True)
    return with_adapter(base, folder)


def registered_policy(
    store: CheckpointStore, asset: str, content_hash: str, base: ModelRef
) -> ModelRef:
    return trained_from(base, store.verified_folder(asset, content_hash))
