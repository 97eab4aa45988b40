"""The OpenAssistant reward model: the fourth indicator of REFINE-AF (methods A, stage 2).

A GPT-NeoX body with one linear output, read at the last token of a conversation. Its checkpoint
names an architecture of its own, `gpt_neox_reward_model` with the output `out_proj`, which
`transformers` does not know; `register_architecture` makes it known, so that the published files
load as they are. A conversation is one turn of the prompter and one of the assistant:

    <|prompter|>{prompt}<|endoftext|><|assistant|>{response}<|endoftext|>

A conversation that is too long is cut as in the model's training: the response keeps its start, the
prompt its end, and at least `LEAST_PROMPT` tokens of it (half of the room where that is less). Only
differences of scores have a meaning. Weights are float32.

A published model on disk that serves as an indicator: finding it, and loading it whole.

`transformers` fills weights that a checkpoint lacks with random ones and says so in a log. A judge
with a random head would still give numbers, so here anything missing is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from refine_dagster.errors import first_line
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.passes import Pass, Tokens, passes
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.language_model import ModelError, ModelRef, resolve_model
from refine_dagster.prompts.example import Example

NAMED = 4


class PublishedModelError(JudgeError):
    """A published model cannot be found, or is not the model that the indicator needs."""


def find_published(id_or_path: str, revision: str | None, knob: str) -> ModelRef:
    """The model that a config field names: a folder, else a Hugging Face id.

    Raises:
        PublishedModelError: it is not there or not whole; names the config field.
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


MODEL_TYPE = "gpt_neox_reward_model"
LAST = "last"
NEEDS = (
    "a GPT-NeoX body and the output `out_proj`, such as "
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5"
)
PROMPTER, ASSISTANT, END = "<|prompter|>", "<|assistant|>", "<|endoftext|>"
LEAST_PROMPT = 256


class RewardModel:
    """The reward model, lent by `loaded_reward_model`.

    Args:
        model: a model of the registered architecture in eval mode on `device`; None once it is
            given back.
        tokenizer: the model's.
        rows: rows of every pass.
        max_tokens: most tokens of a conversation; the model's context is a bound too.

    Raises:
        PublishedModelError: the tokenizer lacks a special token of the chat format.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, rows: int, max_tokens: int
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._device = device
        self._rows = rows
        self._max_tokens = min(max_tokens, model.config.max_position_embeddings)
        self._marks = special_tokens(tokenizer)
        absent = [mark for mark in (PROMPTER, ASSISTANT, END) if mark not in self._marks]
        if absent:
            raise PublishedModelError(
                f"the tokenizer lacks special tokens of the chat format: {', '.join(absent)}",
                where=str(tokenizer.name_or_path),
                fix=f"name a model with {NEEDS}, and its own tokenizer",
            )

    def conversation(self, example: Example) -> tuple[str, str]:
        """The turns of prompter and assistant: instruction and input, and the output."""
        turns = [text for text in (example.instruction, example.input) if text]
        prompt = defused("\n".join(turns), self._marks)
        response = defused(example.output, self._marks)
        return f"{PROMPTER}{prompt}{END}", f"{ASSISTANT}{response}{END}"

    def score(self, conversations: Sequence[tuple[str, str]]) -> list[float]:
        """A real number for each conversation; equal conversations are read once."""
        encoded = [self._encode(*turns) for turns in conversations]
        pad = self._tokenizer.pad_token_id
        # Padding is masked, so any id can stand for it.
        found: dict[Tokens, float] = {}
        for one in passes(encoded, self._rows, self._max_tokens, pad if pad is not None else 0):
            found.update(zip(one.texts, self._read(one), strict=True))
        return [found[text] for text in encoded]

    def _encode(self, prompt: str, response: str) -> Tokens:
        asked, answered = (
            self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
            for text in (prompt, response)
        )
        room = self._max_tokens
        if len(asked) + len(answered) > room:
            kept = max(min(LEAST_PROMPT, room // 2), room - len(answered))
            asked = asked[-kept:]
            answered = answered[: room - len(asked)]
        return (*asked, *answered)

    def _read(self, one: Pass) -> list[float]:
        import torch

        name = self._device.name
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.tensor(one.ids, device=name),
                attention_mask=torch.tensor(one.mask, device=name),
            ).logits
        scores: list[float] = logits[: len(one.texts), 0].double().cpu().tolist()
        return scores


@contextmanager
def loaded_reward_model(
    ref: ModelRef, device: Device, rows: int, max_tokens: int
) -> Iterator[RewardModel]:
    """Load the model, and give its memory back at the end.

    Raises:
        PublishedModelError: it is of another architecture, lacks its output, or its tokenizer lacks
            the chat's special tokens.
    """
    from transformers import AutoModelForSequenceClassification

    register_architecture()
    config = load_config(ref, MODEL_TYPE, NEEDS)
    if config.pooling != LAST:
        raise PublishedModelError(
            f"its score is pooled by {config.pooling!r}, and is read here at the {LAST!r} token",
            where=ref.path,
            fix=f"name a model with {NEEDS}",
        )
    tokenizer = load_tokenizer(ref)
    model = load_whole(AutoModelForSequenceClassification, ref, device, NEEDS)
    reward_model = RewardModel(model, tokenizer, device, rows, max_tokens)
    del model
    try:
        yield reward_model
    finally:
        reward_model.model = None
        release_memory(device)


@cache
def register_architecture() -> tuple[Any, Any]:
    """Make `gpt_neox_reward_model` known to `transformers`; its config and model class.

    The names of classes, config fields and weights are those of the published checkpoint.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        GPTNeoXConfig,
        GPTNeoXModel,
        GPTNeoXPreTrainedModel,
    )
    from transformers.modeling_outputs import SequenceClassifierOutput

    class GPTNeoXRewardModelConfig(GPTNeoXConfig):
        """A GPT-NeoX config and how token states become one."""

        model_type = MODEL_TYPE
        pooling: str = LAST

    class GPTNeoXRewardModel(GPTNeoXPreTrainedModel):
        """Body and linear output; logits of shape (rows, 1)."""

        config_class = GPTNeoXRewardModelConfig
        # Buffers that older versions of the architecture wrote beside the weights.
        _keys_to_ignore_on_load_unexpected = (
            r"attention\.bias",
            r"attention\.masked_bias",
            r"rotary_emb\.inv_freq",
        )

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.gpt_neox = GPTNeoXModel(config)
            self.out_proj = torch.nn.Linear(config.hidden_size, 1)
            self.post_init()

        def forward(self, input_ids: Any, attention_mask: Any = None) -> Any:
            """Scores at the last token that the mask leaves, wherever the padding stands.

            Args:
                input_ids: shape (rows, length).
                attention_mask: shape (rows, length), 1 for a token; None where all are.
            """
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            # A token's place counts tokens, so padding before a text does not move it.
            places = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            states = self.gpt_neox(
                input_ids,
                attention_mask=attention_mask,
                position_ids=places,
                use_cache=False,
            ).last_hidden_state
            order = torch.arange(input_ids.shape[1], device=input_ids.device)
            last = (order * attention_mask).argmax(dim=1)
            pooled = states[torch.arange(len(states), device=states.device), last]
            return SequenceClassifierOutput(logits=self.out_proj(pooled))

    AutoConfig.register(MODEL_TYPE, GPTNeoXRewardModelConfig)
    AutoModelForSequenceClassification.register(GPTNeoXRewardModelConfig, GPTNeoXRewardModel)
    return GPTNeoXRewardModelConfig, GPTNeoXRewardModel
