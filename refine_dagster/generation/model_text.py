"""A model's tokens and limits, apart from what runs the model.

Every backend and the rollouts use it, so that equal tokens are equal completions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Completion, FinishReason, Role, Sampling
from refine_dagster.hashing import json_hash
from refine_dagster.models.architecture import context_length
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, load_config, load_tokenizer, reading
from refine_dagster.registry import BACKENDS

if TYPE_CHECKING:
    from transformers import (
        GenerationConfig,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

_NUMBER = re.compile(r"^\W*(?:task\W*)?\d+\W*", re.IGNORECASE)
# Prompt tokens decoded in front of a completion: some tokenizers drop a text's first blank.
LEAD = 8

_CONFIG: dict[Role, str] = {
    "propose": "self_instruct.max_demonstration_tokens or self_instruct.max_new_tokens",
    "instance": "instances.max_demonstration_tokens or instances.max_new_tokens",
    "rewrite": "teams_rl.max_words or teams_rl.max_new_tokens",
    "review": "teams_rl.max_words",
    "respond": "evaluation.max_source_tokens or evaluation.max_new_tokens",
}


class PromptTooLongError(RefineError):
    """A prompt and its completion do not fit into the model's context."""


class ModelText:
    """A tokenizer with its model's limits.

    Attributes:
        eos: tokens that end a text.
        context_length: longest sequence, prompt and completion together, in tokens; bounded by
            `longest`, which is the config field `generator.vllm_max_model_len`.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        config: PreTrainedConfig,
        generation_config: GenerationConfig | None,
        longest: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.eos = _eos_ids(tokenizer, config, generation_config)
        length = context_length(config)
        self.context_length = length if longest is None else min(length, longest)
        self._bounded = self.context_length < length

    @classmethod
    def of(cls, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> ModelText:
        return cls(tokenizer, model.config, getattr(model, "generation_config", None))

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens, without special tokens around it."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    @cached_property
    def _longest_token(self) -> int:
        return max(len(token) for token in self.tokenizer.get_vocab())

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest start of `text` of at most `max_tokens` tokens."""
        # No token stands for more characters than the longest one.
        start = text[: max_tokens * self._longest_token]
        if self.count_tokens(start) <= max_tokens:
            return start
        fits, too_long = 0, len(start)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.count_tokens(start[:middle]) <= max_tokens:
                fits = middle
            else:
                too_long = middle
        return start[:fits]

    def prompt(self, text: str) -> list[int]:
        """Tokens of a prompt; never empty."""
        ids: list[int] = self.tokenizer(text, verbose=False)["input_ids"]
        return ids or [min(self.eos)]

    def label(self, text: str) -> list[int]:
        """Tokens of a label, the same after any prompt."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ValueError(f"the label {text!r} has no tokens")
        return ids

    def check_length(self, role: Role, prompt: int, new: int) -> None:
        """Refuse a prompt that does not fit into the context with so many `new` tokens."""
        if prompt + new > self.context_length:
            config = _CONFIG.get(role, "max_new_tokens")
            other = (
                "raise generator.vllm_max_model_len"
                if self._bounded
                else "take a model with a longer context "
                "(base_model.context_length of the offline model)"
            )
            raise PromptTooLongError(
                f"a prompt of {prompt} tokens and {new} new ones do not fit into the "
                f"model's context of {self.context_length}",
                where=f"request of role {role}",
                fix=f"lower {config}, or {other}",
            )

    def decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text

    def continuation(self, prompt: Sequence[int], written: Sequence[int]) -> str:
        """The text of `written`, as it stands after `prompt`."""
        lead = prompt[-LEAD:]
        return self.decode([*lead, *written])[len(self.decode(lead)) :]

    def at_list_end(
        self, prompt: Sequence[int], written: Sequence[int], sampling: Sampling
    ) -> bool:
        """Whether the last token of `written` ends a list (`Sampling.lines`)."""
        if not sampling.lines or "\n" not in self.decode(written[-1:]):
            return False
        return list_end(self.continuation(prompt, written), sampling.lines) is not None

    def completion(
        self,
        prompt: Sequence[int],
        written: Sequence[int],
        sampling: Sampling,
        finish: FinishReason,
    ) -> Completion:
        """What `written` says after `prompt`: without the end token, cut where it stops."""
        text = self.continuation(prompt, written[:-1] if finish == "eos" else written)
        cuts = [text.index(stop) for stop in sampling.stop if stop in text]
        if sampling.lines and (end := list_end(text, sampling.lines)) is not None:
            cuts.append(end)
        return Completion(
            text=text[: min(cuts)] if cuts else text,
            finish_reason=finish,
            prompt_tokens=len(prompt),
            completion_tokens=len(written),
        )


def model_text(ref: ModelRef, longest: int | None) -> ModelText:
    from transformers import GenerationConfig

    generation = None
    if (Path(ref.path) / "generation_config.json").is_file():
        with reading(ref, "generation config", "check generation_config.json"):
            generation = GenerationConfig.from_pretrained(ref.path, local_files_only=True)
    return ModelText(load_tokenizer(ref), load_config(ref), generation, longest)


def _eos_ids(*owners: Any) -> frozenset[int]:
    """Tokens that end a text, by the tokenizer and both configs (chat models have several)."""
    ends: set[int | None] = set()
    for owner in owners:
        ids = getattr(owner, "eos_token_id", None)
        ends |= set(ids) if isinstance(ids, (list, tuple)) else {ids}
    return frozenset(token for token in ends if token is not None)


def backend_fingerprint(backend: str, ref: ModelRef, device: Device) -> str:
    """The name of a model as a backend runs it: what its rounding depends on; 64 hex digits.

    A backend of another package counts with the package's version. vLLM has no mode in which a
    completion does not depend on its neighbours' shapes, so the device's `deterministic` changes
    nothing there.
    """
    parts: list[str | bool] = [backend, ref.fingerprint, device.dtype]
    if backend != "vllm":
        parts.append(device.deterministic)
    if device.quantization != "none":
        parts.append(device.quantization)
    parts += BACKENDS.versions(backend).values()
    return json_hash(parts)


def list_end(text: str, most: int) -> int | None:
    """Where a list ends: behind its line `most`, or before a line that says an earlier one again.

    Small models go on with what they wrote before. Lines are compared without their numbers, case
    and punctuation; blank ones do not count. The last line, which may go on, is not looked at.

    >>> text = " Sing.\\nTask 10: Dance.\\nTask 11: sing\\nTask 12"
    >>> text[: list_end(text, 8)]
    ' Sing.\\nTask 10: Dance.'
    >>> text[: list_end(text, 1)]
    ' Sing.'
    """
    seen: set[str] = set()
    start = 0
    for line in text.split("\n")[:-1]:
        words = " ".join(re.findall(r"\w+", _NUMBER.sub("", line).casefold()))
        if words and words in seen:
            return start - 1
        if words:
            seen.add(words)
        start += len(line) + 1
        if len(seen) == most:
            return start - 1
    return None
