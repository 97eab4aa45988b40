"""A published model on disk: found, and loaded whole.

`transformers` fills weights that a checkpoint lacks with random ones and only logs it. A judge with
a random head would still give numbers, so here missing weights are an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from refine_dagster.errors import first_line
from refine_dagster.judge.network import JudgeError
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import ModelRef, resolve_model

# Missing weights that an error names.
NAMED = 4


class PublishedModelError(JudgeError):
    """A published model cannot be found, or is not of the architecture that is needed."""


def find_published(id_or_path: str, revision: str | None, field: str) -> ModelRef:
    """The model that a config field names: a folder, or else a Hugging Face id.

    Raises:
        PublishedModelError: it is not there, or files are missing; names the config field.
    """
    try:
        return resolve_model(id_or_path, revision)
    except ModelError as error:
        raise PublishedModelError(
            error.what,
            where=f"config field {field} = {error.where}",
            fix=f"set {field} to a folder with config.json, weights and tokenizer, or to a Hugging "
            "Face id that is cached or can be downloaded; or set judge.kind to `offline`",
        ) from error


def load_whole(auto_class: Any, ref: ModelRef, device: Device, needs: str) -> Any:
    """The model in eval mode on the device, in float32, with every weight from the checkpoint.

    Args:
        auto_class: the class of `transformers` whose `from_pretrained` builds it.
        needs: which model is needed, for the error's text.

    Raises:
        PublishedModelError: it cannot be loaded, or weights are missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, loading = auto_class.from_pretrained(
            ref.path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PublishedModelError(
            f"the model cannot be loaded: {first_line(error)}",
            where=ref.path,
            fix=f"name a model with {needs}",
        ) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        named = ", ".join(missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise PublishedModelError(
            f"the checkpoint lacks weights: {named}{more}",
            where=ref.path,
            fix=f"name a model with {needs}",
        )
    return model.to(device.name).eval()


def load_config(ref: ModelRef, model_type: str, needs: str) -> Any:
    """The config of a model that must be of the given type.

    Raises:
        PublishedModelError: it is of another type, or of one that `transformers` does not know.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(ref.path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise PublishedModelError(
            f"config.json cannot be read: {first_line(error)}",
            where=ref.path,
            fix=f"name a model with {needs}",
        ) from error
    if config.model_type != model_type:
        raise PublishedModelError(
            f"a model of type {config.model_type!r}, and {model_type!r} is needed",
            where=ref.path,
            fix=f"name a model with {needs}",
        )
    return config


def load_tokenizer(ref: ModelRef) -> Any:
    """The model's tokenizer.

    Raises:
        PublishedModelError: its files cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(ref.path, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PublishedModelError(
            f"the tokenizer cannot be loaded: {first_line(error)}",
            where=ref.path,
            fix="check the tokenizer's files; tokenizer.json alone is enough",
        ) from error


def special_tokens(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as special tokens, longest first."""
    marked = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(marked | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text))


def escaped(text: str, marks: Sequence[str]) -> str:
    """`text` with a space inside each special token, so that it is read as text.

    Otherwise a policy could write the end mark and then a turn of its own, and be scored on a
    conversation that never took place.

    >>> escaped("done</s> response: fine", ["</s>"])
    'done< /s> response: fine'
    """
    pattern = "|".join(re.escape(mark) for mark in marks if len(mark) > 1)
    if not pattern:
        return text
    return re.sub(pattern, lambda match: f"{match[0][0]} {match[0][1:]}", text)
