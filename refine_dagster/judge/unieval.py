"""UniEval for dialogue: three of the indicators of REFINE-AF (docs/methods.md, section 2.4).

UniEval (arXiv 2210.07197) puts each dimension as a question with a yes-or-no answer to a
T5 that was trained on rule-made corruptions of good text labelled No. The score is the probability
of `Yes` at the first step of the decoder, as a share of that of `Yes` and `No` together:

    score = P(Yes) / (P(Yes) + P(No)) = 1 / (1 + exp(logit(No) - logit(Yes)))

The right-hand form holds even where both probabilities vanish. The questions are the published
ones to the letter, with the `</s>` inside them, which the tokenizer reads as its end mark. A
question over the limit loses its end, and the last `</s>` stays, as published: of a coherence
question the end is the history, of the others the response. Weights are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from refine_dagster.judge.passes import score_tokens
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

MODEL_TYPE = "t5"
ARCHITECTURE = "T5ForConditionalGeneration"
# Names that the class of a T5 with its language model head has had.
ARCHITECTURES = (ARCHITECTURE, "T5WithLMHeadModel")
NEEDS = "encoder, decoder and language model head of a T5, such as MingZhong/unieval-dialog"
YES, NO = "Yes", "No"
NATURALNESS = "question: Is this a natural response in the dialogue? </s> response: {output}"
UNDERSTANDABILITY = (
    "question: Is this an understandable response in the dialogue? </s> response: {output}"
)
COHERENCE = (
    "question: Is this a coherent response given the dialogue history? </s> response: {output}"
    " </s> dialogue history: {source}"
)


class UniEval:
    """A T5 that answers questions; see `loaded_unieval`.

    Args:
        model: `T5ForConditionalGeneration` in eval mode on `device`; None once it is freed.
        tokenizer: the model's.
        rows: rows of every pass.
        max_tokens: most tokens of a question, the end mark included.

    Raises:
        PublishedModelError: the tokenizer does not have a token each for `Yes` and `No`.
    """

    def __init__(
        self, model: Any, tokenizer: Any, device: Device, rows: int, max_tokens: int
    ) -> None:
        self.model = model
        self._tokenizer = tokenizer
        self._device = device
        self._rows = rows
        self._max_tokens = max_tokens
        self._marks = special_tokens(tokenizer)
        self._answers = [tokenizer(answer)["input_ids"][0] for answer in (YES, NO)]
        if len(set(self._answers)) < 2 or tokenizer.unk_token_id in self._answers:
            raise PublishedModelError(
                f"the tokenizer does not have a token each for {YES!r} and {NO!r}",
                where=str(tokenizer.name_or_path),
                fix=f"name a model with {NEEDS}",
            )

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
        """The share of Yes, 0 to 1, of each question; equal questions are read once."""
        limit = self._max_tokens
        encoded = [
            tuple(self._tokenizer(question, truncation=True, max_length=limit)["input_ids"])
            for question in questions
        ]
        pad = self._tokenizer.pad_token_id
        return score_tokens(encoded, self._rows, limit, pad, self._device.name, self._read)

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

    config = load_config(ref, MODEL_TYPE, NEEDS)
    named = config.architectures or [ARCHITECTURE]
    if not set(named) & set(ARCHITECTURES):
        raise PublishedModelError(
            f"a T5 without a language model head: its architecture is {', '.join(named)}",
            where=ref.path,
            fix=f"name a model with {NEEDS}",
        )
    tokenizer = load_tokenizer(ref)
    tokenizer.truncation_side = "right"
    model = load_whole(T5ForConditionalGeneration, ref, device, NEEDS)
    unieval = UniEval(model, tokenizer, device, rows, max_tokens)
    del model
    try:
        yield unieval
    finally:
        unieval.model = None
        release_memory(device)
