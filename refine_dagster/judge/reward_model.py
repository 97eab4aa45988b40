"""The OpenAssistant reward model, the fourth indicator of REFINE-AF (docs/methods.md, section 2.5).

A GPT-NeoX body with one linear output, read at the last token of a conversation. Its checkpoint
names an architecture of its own, `gpt_neox_reward_model` with the output `out_proj`, which
`transformers` does not know; `register_architecture` adds it. A conversation is one turn of the
prompter and one of the assistant:

    <|prompter|>{prompt}<|endoftext|><|assistant|>{response}<|endoftext|>

A conversation that is too long is cut as in the model's training: the response keeps its start, the
prompt its end, and at least `LEAST_PROMPT` tokens of it (half of the room where that is less). Only
differences of scores have a meaning. Weights are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from refine_dagster.judge.passes import Tokens, score_tokens
from refine_dagster.judge.published_model import (
    PublishedModelError,
    escaped,
    load_config,
    load_tokenizer,
    load_whole,
    special_tokens,
)
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example

if TYPE_CHECKING:
    from torch import Tensor

MODEL_TYPE = "gpt_neox_reward_model"
LAST = "last"
NEEDS = (
    "a GPT-NeoX body and the output `out_proj`, such as "
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5"
)
PROMPTER, ASSISTANT, END = "<|prompter|>", "<|assistant|>", "<|endoftext|>"
LEAST_PROMPT = 256


class RewardModel:
    """The reward model; see `loaded_reward_model`.

    Args:
        model: of the registered architecture, in eval mode on `device`; None once it is freed.
        tokenizer: the model's.
        rows: rows of every pass.
        max_tokens: most tokens of a conversation; the model's context is another bound.

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
        prompt = escaped("\n".join(turns), self._marks)
        response = escaped(example.output, self._marks)
        return f"{PROMPTER}{prompt}{END}", f"{ASSISTANT}{response}{END}"

    def score(self, conversations: Sequence[tuple[str, str]]) -> list[float]:
        """A real number for each conversation; equal conversations are read once."""
        encoded = [self._encode(*turns) for turns in conversations]
        # Padding is masked, so any id will do.
        pad = self._tokenizer.pad_token_id or 0
        return score_tokens(
            encoded, self._rows, self._max_tokens, pad, self._device.name, self._read
        )

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

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids, attention_mask=mask).logits
        return logits[:, 0].double().cpu()


@contextmanager
def loaded_reward_model(
    ref: ModelRef, device: Device, rows: int, max_tokens: int
) -> Iterator[RewardModel]:
    """Load the model; free its memory at the end.

    Raises:
        PublishedModelError: it is of another architecture, lacks its output, or its tokenizer lacks
            the chat's special tokens.
    """
    from transformers import AutoModelForSequenceClassification

    register_architecture()
    config = load_config(ref, MODEL_TYPE, NEEDS)
    if config.pooling != LAST:
        raise PublishedModelError(
            f"its score is pooled by {config.pooling!r}; here it is read at the {LAST!r} token",
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
    """Register `gpt_neox_reward_model` with `transformers`; its config and model class.

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
        """A GPT-NeoX config, and how the states of the tokens are pooled."""

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

        def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
            """Scores at the last token that is not padding, wherever the padding is.

            Args:
                input_ids: shape (rows, length).
                attention_mask: shape (rows, length), 1 for a token; None where all are.
            """
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            # Padding before a text is not counted.
            positions = (attention_mask.cumsum(dim=1) - 1).clamp(min=0)
            states = self.gpt_neox(
                input_ids,
                attention_mask=attention_mask,
                position_ids=positions,
                use_cache=False,
            ).last_hidden_state
            order = torch.arange(input_ids.shape[1], device=input_ids.device)
            last = (order * attention_mask).argmax(dim=1)
            pooled = states[torch.arange(len(states), device=states.device), last]
            return SequenceClassifierOutput(logits=self.out_proj(pooled))

    AutoConfig.register(MODEL_TYPE, GPTNeoXRewardModelConfig)
    AutoModelForSequenceClassification.register(GPTNeoXRewardModelConfig, GPTNeoXRewardModel)
    return GPTNeoXRewardModelConfig, GPTNeoXRewardModel
