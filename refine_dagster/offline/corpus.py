"""What the offline base model reads: its tokenizer, rows of text, and these rows as tensors.

A row is documents separated by the end token; the first starts the row, as a prompt does at
inference. There are two kinds of row: the requirements followed by a numbered list of instructions
(the proposal prompt, continued), and the header followed by whole examples (the instance prompt,
continued). Both mix primer tasks with the user's seeds.

The tokenizer is a byte-level BPE with two choices for a small model that lives on few-shot prompts.
A line break is always a token of its own, so that a prompt that ends where a completion begins has
the same tokens as the joined text of training. A digit is a token of its own, so that numbers are
spelt the same way everywhere.

The output is the shortest part of an example and the only one that depends on the task. In a plain
mean of the tokens' losses it would hardly count, so its tokens have a higher weight.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from refine_dagster.prompts.example import HEADER, Example
from refine_dagster.prompts.proposal import propose_prompt

if TYPE_CHECKING:
    from torch import Tensor

END = "<|end|>"
PAD = "<|pad|>"
# In order: a line break; an English contraction; a word, one digit or a run of signs, each with the
# blank before it; other blanks.
PIECES = r"\n|'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[^\S\n]+"
# Share of the lines and examples that is drawn from the seeds; the rest is the primer's. At this
# share and the default steps about 1 proposal in 35 is a seed word for word.
SEED_SHARE = 0.15
# Share of rows that are lists of instructions; the others are examples, which take longer to learn.
PROPOSE_SHARE = 0.25
LIST_LENGTHS = (10, 20)
EXAMPLE_COUNTS = (4, 10)
# An output's first line, with the sign that ends it: a line break or the end token.
OUTPUT = re.compile(rf"(?<=^Output:)[^\n]*?(?:\n|{re.escape(END)}|\Z)", re.MULTILINE)

T = TypeVar("T")


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> Any:
    """Train a tokenizer on `texts`; equal texts give equal files.

    `vocab_size` includes the 256 bytes and 2 special tokens; `context_length` is recorded as the
    longest sequence. It is a `transformers.PreTrainedTokenizerFast` that pads on the left.
    """
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PIECES), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END, PAD],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        pad_token=PAD,
        model_max_length=context_length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


class Corpus:
    """Rows drawn from seeds and primer; without seeds, from the primer alone."""

    def __init__(
        self, seeds: Sequence[Example], primer: Sequence[Example], rng: random.Random
    ) -> None:
        self._seeds = list(seeds)
        self._primer = list(primer)
        self._rng = rng
        self._seed_lines = sorted({example.instruction for example in seeds})
        self._primer_lines = sorted({example.instruction for example in primer})

    def rows(self, count: int, characters: int) -> Iterator[str]:
        """`count` rows of `characters` characters each; the last document may be cut."""
        for _ in range(count):
            document = self._list if self._rng.random() < PROPOSE_SHARE else self._examples
            text = ""
            while len(text) < characters:
                text += document() + END
            yield text[:characters]

    def _list(self) -> str:
        count = self._rng.randint(*LIST_LENGTHS)
        # A dict keeps the order of the draws and drops repetitions.
        lines = dict.fromkeys(
            self._draw(self._seed_lines, self._primer_lines) for _ in range(count)
        )
        *shown, last = lines
        return f"{propose_prompt(shown)} {last}"

    def _examples(self) -> str:
        count = self._rng.randint(*EXAMPLE_COUNTS)
        examples = [self._draw(self._seeds, self._primer) for _ in range(count)]
        return "\n\n".join([HEADER, *(example.render() for example in examples)])

    def _draw(self, seeds: Sequence[T], primer: Sequence[T]) -> T:
        from_seeds = self._rng.random() < SEED_SHARE
        return self._rng.choice(seeds if seeds and from_seeds else primer)


def encode_rows(
    tokenizer: Any, rows: Sequence[str], length: int, output_weight: float
) -> tuple[Tensor, Tensor]:
    """Token ids (int64) and weights (float32) of the rows, both of shape (rows, length).

    A row is encoded as one text, as a prompt is. A row of fewer tokens is repeated. A token of an
    example's output has the weight `output_weight`, any other 1.
    """
    import torch

    encoded = tokenizer(
        list(rows),
        truncation=True,
        max_length=length,
        padding=False,
        return_offsets_mapping=True,
    )
    ids, weights = [], []
    for row, tokens, spans in zip(
        rows, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        repeats = -(-length // len(tokens))
        row_weights = [output_weight if inside else 1.0 for inside in _in_output(row, spans)]
        ids.append((tokens * repeats)[:length])
        weights.append((row_weights * repeats)[:length])
    return torch.tensor(ids), torch.tensor(weights)


def _in_output(row: str, spans: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """For each token, given by its span of characters in order, whether it lies in an output."""
    outputs = OUTPUT.finditer(row)
    output = next(outputs, None)
    for start, _ in spans:
        while output is not None and output.end() <= start:
            output = next(outputs, None)
        yield output is not None and output.start() <= start
