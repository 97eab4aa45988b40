"""The published models on disk, UniEval and the OpenAssistant reward model: found, loaded, asked.

`transformers` fills weights that a checkpoint lacks with random ones and only logs it. A judge with
a random head would still give numbers, so here missing weights are an error. Weights are float32.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from refine_dagster.errors import first_line
from refine_dagster.judge.network import JudgeError
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.files import ModelError
from refine_dagster.models.language_model import ModelRef, resolve_model
from refine_dagster.models.padding import Tokens, positions, score_tokens
from refine_dagster.prompts.example import Example

if TYPE_CHECKING:
    from torch import Tensor

# Missing weights that an error names.
NAMED = 4


class PublishedModelError(JudgeError):
    """A published model cannot be found, or is not of the architecture that is needed."""


def unfit(what: str, where: str, needs: str) -> PublishedModelError:
    return PublishedModelError(what, where=where, fix=f"name a model with {needs}")


def find_published(id_or_path: str, revision: str | None, field: str) -> ModelRef:
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
    """A model of an `auto_class` of `transformers`: float32, in eval mode, every weight read.

    `needs` says in errors which model is needed.
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
        raise unfit(f"the model cannot be loaded: {first_line(error)}", ref.path, needs) from error
    missing = sorted(loading["missing_keys"])
    if missing:
        named = ", ".join(missing[:NAMED])
        more = f" and {len(missing) - NAMED} more" if len(missing) > NAMED else ""
        raise unfit(f"the checkpoint lacks weights: {named}{more}", ref.path, needs)
    return model.to(device.name).eval()


def load_config(ref: ModelRef, model_type: str, needs: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(ref.path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise unfit(f"config.json cannot be read: {first_line(error)}", ref.path, needs) from error
    if config.model_type != model_type:
        what = f"a model of type {config.model_type!r}, and {model_type!r} is needed"
        raise unfit(what, ref.path, needs)
    return config


def load_tokenizer(ref: ModelRef) -> Any:
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


ARCHITECTURE = "T5ForConditionalGeneration"
# Names that the class of a T5 with its language model head has had.
ARCHITECTURES = (ARCHITECTURE, "T5WithLMHeadModel")
UNIEVAL_NEEDS = "encoder, decoder and language model head of a T5, such as MingZhong/unieval-dialog"
YES, NO = "Yes", "No"
NATURALNESS = "question: Is this a natural response in the dialogue? </s> response: {output}"
UNDERSTANDABILITY = (
    "question: Is this an understandable response in the dialogue? </s> response: {output}"
)
COHERENCE = (
    "question: Is this a coherent response given the dialogue history? </s> response: {output}"
    " </s> dialogue history: {source}"
)


class PublishedModel(ABC):
    """A published model in eval mode on `device`, which scores texts in passes of `rows`."""

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, rows: int, max_tokens: int
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._device = device
        self._rows = rows
        self._max_tokens = max_tokens
        self._marks = special_tokens(tokenizer)

    @contextmanager
    def freed_at_end(self) -> Iterator[None]:
        try:
            yield
        finally:
            self.model = None
            release_memory(self._device)

    def _scores(self, texts: Sequence[Tokens]) -> list[float]:
        # Padding is masked, so any id will do.
        pad = self._tokenizer.pad_token_id or 0
        rows, longest = self._rows, self._max_tokens
        return score_tokens(texts, rows, longest, pad, self._device.name, self._read)

    @abstractmethod
    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        """A score a row, on the CPU, of ids and mask of shape (rows, length)."""


class UniEval(PublishedModel):
    """UniEval for dialogue: three of the indicators of REFINE-AF (docs/methods.md, section 2.4).

    UniEval (arXiv 2210.07197) puts each dimension as a question with a yes-or-no answer to a T5
    that was trained on rule-made corruptions of good text labelled No. The score is the probability
    of `Yes` at the first step of the decoder, as a share of that of `Yes` and `No` together:

        score = P(Yes) / (P(Yes) + P(No)) = 1 / (1 + exp(logit(No) - logit(Yes)))

    The right-hand form holds even where both probabilities vanish. The questions are the published
    ones to the letter, with the `</s>` inside them, which the tokenizer reads as its end mark. A
    question over `max_tokens`, the last `</s>` included, loses its end, as published: of a
    coherence question that is the history, of the others the response.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, rows: int, max_tokens: int
    ) -> None:
        super().__init__(model, tokenizer, device, rows, max_tokens)
        self._answers = [tokenizer(answer)["input_ids"][0] for answer in (YES, NO)]
        if len(set(self._answers)) < 2 or tokenizer.unk_token_id in self._answers:
            what = f"the tokenizer does not have a token each for {YES!r} and {NO!r}"
            raise unfit(what, str(tokenizer.name_or_path), UNIEVAL_NEEDS)

    def questions(self, example: Example) -> tuple[str, str, str]:
        """The questions on naturalness, coherence and understandability.

        The output is the response; instruction and input are the turn before it. As in the
        published example, turns end in a line break and the history in two.
        """
        output = escaped(example.output, self._marks)
        turns = [text for text in (example.instruction, example.input) if text]
        source = escaped("\n".join(turns), self._marks) + "\n\n"
        return (
            NATURALNESS.format(output=output),
            COHERENCE.format(output=output, source=source),
            UNDERSTANDABILITY.format(output=output),
        )

    def score(self, questions: Sequence[str]) -> list[float]:
        """The share of Yes, 0 to 1, of each question."""
        cut = {"truncation": True, "max_length": self._max_tokens}
        encoded = [self._tokenizer(question, **cut)["input_ids"] for question in questions]
        return self._scores([tuple(ids) for ids in encoded])

    def _read(self, ids: Tensor, mask: Tensor) -> Tensor:
        import torch

        start = self.model.config.decoder_start_token_id
        logits = self.model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=torch.full((len(ids), 1), start, device=ids.device),
            use_cache=False,
        ).logits[:, 0]
        yes, no = logits[:, self._answers].double().cpu().unbind(dim=-1)
        return torch.sigmoid(yes - no)


@contextmanager
def loaded_unieval(ref: ModelRef, device: Device, rows: int, max_tokens: int) -> Iterator[UniEval]:
    """Load the model; free its memory at the end.

    Raises:
        PublishedModelError: it is no T5 with a language model head, or weights are missing.
    """
    from transformers import T5ForConditionalGeneration

    config = load_config(ref, "t5", UNIEVAL_NEEDS)
    named = config.architectures or [ARCHITECTURE]
    if not set(named) & set(ARCHITECTURES):
        what = f"a T5 without a language model head: its architecture is {', '.join(named)}"
        raise unfit(what, ref.path, UNIEVAL_NEEDS)
    tokenizer = load_tokenizer(ref)
    tokenizer.truncation_side = "right"
    model = load_whole(T5ForConditionalGeneration, ref, device, UNIEVAL_NEEDS)
    loaded = UniEval(model, tokenizer, device, rows, max_tokens)
    del model
    with loaded.freed_at_end():
        yield loaded


REWARD_MODEL_TYPE = "gpt_neox_reward_model"
LAST = "last"
REWARD_MODEL_NEEDS = (
    "a GPT-NeoX body and the output `out_proj`, such as "
    "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5"
)
PROMPTER, ASSISTANT, END = "<|prompter|>", "<|assistant|>", "<|endoftext|>"
LEAST_PROMPT = 256


class RewardModel(PublishedModel):
    """The OpenAssistant reward model, REFINE-AF's fourth indicator (docs/methods.md, section 2.5).

    A GPT-NeoX body with one linear output, read at the last token of a conversation. Its checkpoint
    names an architecture of its own, `gpt_neox_reward_model` with the output `out_proj`, which
    `transformers` does not know; `register_architecture` adds it. A conversation is one turn of the
    prompter and one of the assistant:

        <|prompter|>{prompt}<|endoftext|><|assistant|>{response}<|endoftext|>

    A conversation over `max_tokens`, or the model's context, is cut as in the model's training: the
    response keeps its start, the prompt its end, and at least `LEAST_PROMPT` tokens of it (half of
    the room where that is less). Only differences of scores have a meaning.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, rows: int, max_tokens: int
    ) -> None:
        most = min(max_tokens, model.config.max_position_embeddings)
        super().__init__(model, tokenizer, device, rows, most)
        absent = [mark for mark in (PROMPTER, ASSISTANT, END) if mark not in self._marks]
        if absent:
            what = f"the tokenizer lacks special tokens of the chat format: {', '.join(absent)}"
            where = str(tokenizer.name_or_path)
            raise unfit(what, where, f"{REWARD_MODEL_NEEDS}, and its own tokenizer")

    def conversation(self, example: Example) -> tuple[str, str]:
        """The turns of prompter and assistant: instruction and input, and the output."""
        turns = [text for text in (example.instruction, example.input) if text]
        prompt = escaped("\n".join(turns), self._marks)
        response = escaped(example.output, self._marks)
        return f"{PROMPTER}{prompt}{END}", f"{ASSISTANT}{response}{END}"

    def score(self, conversations: Sequence[tuple[str, str]]) -> list[float]:
        return self._scores([self._encode(*turns) for turns in conversations])

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
        PublishedModelError: it is of another architecture, or lacks its output.
    """
    from transformers import AutoModelForSequenceClassification

    register_architecture()
    config = load_config(ref, REWARD_MODEL_TYPE, REWARD_MODEL_NEEDS)
    if config.pooling != LAST:
        what = f"its score is pooled by {config.pooling!r}; here it is read at the {LAST!r} token"
        raise unfit(what, ref.path, REWARD_MODEL_NEEDS)
    tokenizer = load_tokenizer(ref)
    model = load_whole(AutoModelForSequenceClassification, ref, device, REWARD_MODEL_NEEDS)
    loaded = RewardModel(model, tokenizer, device, rows, max_tokens)
    del model
    with loaded.freed_at_end():
        yield loaded


@cache
def register_architecture() -> tuple[Any, Any]:
    """Register the architecture with `transformers`; names are the published checkpoint's."""
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
        model_type = REWARD_MODEL_TYPE
        pooling: str = LAST

    class GPTNeoXRewardModel(GPTNeoXPreTrainedModel):
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

            Ids and mask are of shape (rows, length); without a mask all are tokens.
            """
            if attention_mask is None:
                attention_mask = torch.ones_like(input_ids)
            states = self.gpt_neox(
                input_ids,
                attention_mask=attention_mask,
                position_ids=positions(attention_mask),
                use_cache=False,
            ).last_hidden_state
            order = torch.arange(input_ids.shape[1], device=input_ids.device)
            last = (order * attention_mask).argmax(dim=1)
            pooled = states[torch.arange(len(states), device=states.device), last]
            return SequenceClassifierOutput(logits=self.out_proj(pooled))

    AutoConfig.register(REWARD_MODEL_TYPE, GPTNeoXRewardModelConfig)
    AutoModelForSequenceClassification.register(GPTNeoXRewardModelConfig, GPTNeoXRewardModel)
    return GPTNeoXRewardModelConfig, GPTNeoXRewardModel
