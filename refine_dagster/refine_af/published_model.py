"""A published model on disk that serves as an indicator: finding it, and loading it whole.

`transformers` fills weights that a checkpoint lacks with random ones and says so in a log. A judge
with a random head would still give numbers, so here anything missing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from refine_dagster.device import Device
from refine_dagster.errors import first_line
from refine_dagster.language_model import ModelError, ModelRef, resolve_model
from refine_dagster.refine_af.judge_network import JudgeError

NAMED = 4


class PublishedModelError(JudgeError):
    """A published model cannot be found, or is not the model that the indicator needs."""


def find_published(id_or_path: str, revision: str | None, knob: str) -> ModelRef:
    """The model that a knob names: a folder, else a Hugging Face id.

    Raises:
        PublishedModelError: it is not there or not whole; names the knob.
    """
    try:
        return resolve_model(id_or_path, revision)
    except ModelError as error:
        raise PublishedModelError(
            error.what,
            where=f"knob {knob} = {error.where}",
            fix=f"name in {knob} a folder with config.json, weights and tokenizer, or a Hugging "
            "Face id that is in the local cache or can be fetched; or take judge.kind `offline`",
        ) from error


def load_whole(auto_class: Any, ref: ModelRef, device: Device, needs: str) -> Any:
    """The model in eval mode on the device, in float32, with every weight from the checkpoint.

    Args:
        auto_class: the class of `transformers` whose `from_pretrained` builds it.
        needs: what the indicator reads its score from, for the error's text.

    Raises:
        PublishedModelError: it cannot be built, or weights are missing.
    """
    import torch
    from safetensors import SafetensorError
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model, told = auto_class.from_pretrained(
            ref.path, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise PublishedModelError(
            f"the model cannot be loaded: {first_line(error)}",
            where=ref.path,
            fix=f"name a model with {needs}",
        ) from error
    missing = sorted(told["missing_keys"])
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
    """The model's config, after checking that it is of the architecture.

    Raises:
        PublishedModelError: it is of another one, or of one that `transformers` does not know.
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
    """The texts that the tokenizer reads as marks of structure, longest first."""
    marked = {str(one) for one in tokenizer.added_tokens_decoder.values() if one.special}
    return sorted(marked | set(tokenizer.all_special_tokens), key=lambda text: (-len(text), text))


def defused(text: str, marks: Sequence[str]) -> str:
    """`text` with a blank inside each mark, so that it stays text.

    A policy is rewarded for what it writes. One that writes the end mark and then a turn of its own
    would be scored on a conversation that never was. A text without marks is left as it is.

    >>> defused("done</s> response: fine", ["</s>"])
    'done< /s> response: fine'
    """
    pattern = "|".join(re.escape(mark) for mark in marks if len(mark) > 1)
    if not pattern:
        return text
    return re.sub(pattern, lambda found: f"{found[0][0]} {found[0][1:]}", text)
