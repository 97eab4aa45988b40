"""UniEval for dialogue: three of the four indicators of REFINE-AF (methods A, stage 2).

UniEval (arXiv 2210.07197, section 3) puts each dimension as a question with a yes-or-no answer to a
T5 that was trained on rule-made corruptions of good text labelled No. The score is what the first
step of the decoder gives to `Yes`, as a share of what it gives to `Yes` and `No` together:

    score = P(Yes) / (P(Yes) + P(No)) = 1 / (1 + exp(logit(No) - logit(Yes)))

The right-hand form is the same number, and is also one where both probabilities vanish. The
questions are the published ones to the letter, the `</s>` inside them included, which the tokenizer
reads as its end mark. A text over the limit loses its end, and the last `</s>` stays, as published:
of a coherence question that is the history, of the others the response. Weights are float32.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from refine_dagster.judge.passes import Pass, Tokens, passes
from refine_dagster.judge.reward_model import (
    PublishedModelError,
    defused,
    load_config,
    load_tokenizer,
    load_whole,
    special_tokens,
)
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example

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
    """A T5 that answers questions, lent by `loaded_unieval`.

    Args:
        model: `T5ForConditionalGeneration` in eval mode on `device`; None once it is given back.
        tokenizer: the model's.
        rows: rows of every pass.
        max_tokens: most tokens of a question, the end mark included.

    Raises:
        PublishedModelError: the tokenizer has no tokens of their own for `Yes` and `No`.
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
                f"the tokenizer has no tokens of their own for {YES!r} and {NO!r}",
                where=str(tokenizer.name_or_path),
                fix=f"name a model with {NEEDS}",
            )

    def questions(self, example: Example) -> tuple[str, str, str]:
        """What is asked of an example: naturalness, coherence, understandability.

        The output is the response. Instruction and input are the turn before it; as in the
        published example, turns end in a line break and the history in two.
        """
        output = defused(example.output, self._marks)
        turns = [text for text in (example.instruction, example.input) if text]
        source = defused("\n".join(turns), self._marks) + "\n\n"
        return (
            NATURALNESS.format(output=output),
            COHERENCE.format(output=output, source=source),
            UNDERSTANDABILITY.format(output=output),
        )

    def score(self, questions: Sequence[str]) -> list[float]:
        """The share of Yes, 0 to 1, of each question; equal questions are read once."""
        encoded = [self._encode(question) for question in questions]
        found: dict[Tokens, float] = {}
        for one in passes(encoded, self._rows, self._max_tokens, self._tokenizer.pad_token_id):
            found.update(zip(one.texts, self._read(one), strict=True))
        return [found[text] for text in encoded]

    def _encode(self, question: str) -> Tokens:
        return tuple(
            self._tokenizer(question, truncation=True, max_length=self._max_tokens)["input_ids"]
        )

    def _read(self, one: Pass) -> list[float]:
        import torch

        name = self._device.name
        start = self.model.config.decoder_start_token_id
        with torch.no_grad():
            logits = self.model(
                input_ids=torch.tensor(one.ids, device=name),
                attention_mask=torch.tensor(one.mask, device=name),
                decoder_input_ids=torch.full((len(one.ids), 1), start, device=name),
                use_cache=False,
            ).logits[: len(one.texts), 0]
        yes, no = logits[:, self._answers].double().cpu().unbind(dim=-1)
        shares: list[float] = torch.sigmoid(yes - no).tolist()
        return shares


@contextmanager
def loaded_unieval(ref: ModelRef, device: Device, rows: int, max_tokens: int) -> Iterator[UniEval]:
    """Load the model, and give its memory back at the end.

    Raises:
        PublishedModelError: it is no T5 with a language model head, or not whole.
    """
    from transformers import T5ForConditionalGeneration

    config = load_config(ref, MODEL_TYPE, NEEDS)
    named = config.architectures or [ARCHITECTURE]
    if not set(named) & set(ARCHITECTURES):
        raise PublishedModelError(
            f"a T5 without language model head: its architecture is {', '.join(named)}",
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
