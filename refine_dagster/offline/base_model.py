"""The offline base model: a small Llama trained on the spot (docs/methods.md, section 9.1).

It learns the pipeline's prompt formats from a primer of generated tasks and the user's seeds. It
stops early on purpose: a model that has read them longer repeats them instead of recombining them.
A minute on one core is about half a million tokens, so each must teach as much as it can: the first
layer begins with previous-token heads, the tokens of outputs weigh more, and matrices are trained
by Muon.

It reads rows of documents separated by the end token; the first starts the row, as a prompt does at
inference. There are two kinds of row: the requirements followed by a numbered list of instructions
(the proposal prompt, continued), and the header followed by whole examples (the instance prompt,
continued). Both mix primer tasks with the user's seeds. The output is the shortest part of an
example and the only one that depends on the task, so its tokens have a higher weight.

The tokenizer is a byte-level BPE. A line break is always a token of its own, so that a prompt that
ends where a completion begins has the same tokens as the joined text of training. So is a digit:
numbers are spelt the same way everywhere.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from refine_dagster import progress
from refine_dagster.config.models import BaseModelConfig
from refine_dagster.models.device import Device
from refine_dagster.models.files import ModelError
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import HEADER, Example
from refine_dagster.prompts.proposal import propose_prompt
from refine_dagster.seeding import request_seed

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

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

# Length of the constant vectors in each pair of dimensions: the score at the wanted distance is the
# sum of its squares over the pairs, divided by the root of the head's width.
AMPLITUDE = 5.0
# Pairs used, from the highest frequency on; lower ones hardly distinguish neighbours.
PAIRS = 8
WARMUP_SHARE = 0.06
FINAL_RATE_SHARE = 0.05
BETAS = (0.9, 0.98)
MATRIX_MOMENTUM = 0.95
MATRIX_WEIGHT_DECAY = 0.01
MAX_GRADIENT_NORM = 1.0
INITIAL_DEVIATION = 0.04
# Width of the feed-forward layer over the residual stream's, and its granularity.
FEED_FORWARD_RATIO = 8 / 3
FEED_FORWARD_STEP = 32
MIN_HEAD_WIDTH = 32
# Rows that the tokenizer is trained on, from the first.
TOKENIZER_ROWS = 400
# More than in ordinary text, because rows are cut to their length in tokens later.
CHARACTERS_PER_TOKEN = 6


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


def previous_token_heads(model: Any, heads: int) -> None:
    """Make the first `heads` heads of an untrained Llama attend to 1, 2, ... tokens before.

    With each pair of a head's dimensions written as a complex number, the rotary attention score of
    a query q and a key k that is d tokens before it is Re(sum of q * conj(k) * exp(i w d)) over the
    pairs, w being a pair's frequency. A constant key a and a constant query a * exp(-i w n) give
    a^2 cos(w (d - n)) for each pair: most at d = n, whatever the tokens are. The constants are
    biases of queries and keys (`attention_bias`; as many key heads as query heads), so that they
    are trained further like all weights.
    """
    import torch

    width = model.config.hidden_size // model.config.num_attention_heads
    pairs = min(PAIRS, width // 2)
    frequencies = model.model.rotary_emb.inv_freq[:pairs]
    attention = model.model.layers[0].self_attn
    queries, keys = attention.q_proj.bias, attention.k_proj.bias
    with torch.no_grad():
        for head in range(heads):
            distance = head + 1
            # Hugging Face's Llama keeps the two parts of a pair half a head apart.
            real = slice(head * width, head * width + pairs)
            imaginary = slice(real.start + width // 2, real.stop + width // 2)
            keys[real] = AMPLITUDE
            queries[real] = AMPLITUDE * torch.cos(frequencies * distance)
            queries[imaginary] = -AMPLITUDE * torch.sin(frequencies * distance)


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step, from 1, and its mean loss over the batch's tokens, in nats.

    `learning_rate` is AdamW's; Muon's is in a fixed proportion to it.
    """

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class BaseModelTraining:
    steps: list[TrainingStep]
    parameters: int


def train_base_model(
    seeds: Sequence[Example], config: BaseModelConfig, out: Path, device: Device, run_seed: str
) -> BaseModelTraining:
    """Train tokenizer and model, in float32, and save both as Hugging Face files in `out`.

    Equal arguments on one machine give equal files.

    Raises:
        ModelError: the sizes of the config do not fit together.
    """
    import torch
    from transformers.utils import logging

    _check(config)
    rng = random.Random(request_seed(run_seed, "base_model", "corpus"))
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "base_model", "primer"))
    corpus = Corpus(seeds, [task.example for task in primer], rng)
    characters = config.sequence_length * CHARACTERS_PER_TOKEN
    rows = list(corpus.rows(config.steps * config.batch_size, characters))
    tokenizer = train_tokenizer(rows[:TOKENIZER_ROWS], config.vocab_size, config.context_length)
    ids, weights = encode_rows(tokenizer, rows, config.sequence_length, config.output_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request_seed(run_seed, "base_model", "weights"))
        model = _new_model(config, tokenizer).to(device.name)
    steps = _train(model, ids, weights, config, device)
    logging.disable_progress_bar()
    model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    return BaseModelTraining(steps, model.num_parameters())


def write_untrained(
    seeds: Sequence[Example], config: BaseModelConfig, out: Path, run_seed: str
) -> None:
    """Save the model as it is before its training, with its tokenizer: of equal size and speed."""
    from transformers.utils import logging

    _check(config)
    logging.disable_progress_bar()
    primer = primer_tasks(config.primer_tasks, request_seed(run_seed, "base_model", "primer"))
    rng = random.Random(request_seed(run_seed, "base_model", "corpus"))
    corpus = Corpus(seeds, [task.example for task in primer], rng)
    rows = corpus.rows(TOKENIZER_ROWS, config.sequence_length * CHARACTERS_PER_TOKEN)
    tokenizer = train_tokenizer(rows, config.vocab_size, config.context_length)
    _new_model(config, tokenizer).save_pretrained(out)
    tokenizer.save_pretrained(out)


def _check(config: BaseModelConfig) -> None:
    head_width, rest = divmod(config.hidden_size, config.heads)
    if rest or head_width < MIN_HEAD_WIDTH or head_width % 2:
        raise ModelError(
            f"a width of {config.hidden_size} cannot be divided into {config.heads} heads of an "
            f"even width of at least {MIN_HEAD_WIDTH}",
            where="config fields base_model.hidden_size and base_model.heads",
            fix=f"use fewer heads, or a width of {config.heads * MIN_HEAD_WIDTH}",
        )
    if config.previous_token_heads > config.heads:
        raise ModelError(
            f"{config.previous_token_heads} previous-token heads, where a layer has {config.heads}",
            where="config fields base_model.previous_token_heads and base_model.heads",
            fix=f"use at most {config.heads}",
        )
    if config.sequence_length > config.context_length:
        raise ModelError(
            f"training sequences of {config.sequence_length} tokens are longer than the context of "
            f"{config.context_length}",
            where="config fields base_model.sequence_length and base_model.context_length",
            fix="lower the first or raise the second",
        )


def _new_model(config: BaseModelConfig, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    feed_forward = config.hidden_size * FEED_FORWARD_RATIO / FEED_FORWARD_STEP
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            intermediate_size=math.ceil(feed_forward) * FEED_FORWARD_STEP,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context_length,
            initializer_range=INITIAL_DEVIATION,
            attention_bias=True,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    previous_token_heads(model, config.previous_token_heads)
    return model


def _optimisers(model: Any, config: BaseModelConfig) -> list[Any]:
    """AdamW for embeddings and vectors, then Muon for matrices."""
    import torch

    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    # Output and input embeddings are one tensor, which `parameters` yields once.
    others = [weight for weight in model.parameters() if all(weight is not m for m in matrices)]
    return [
        torch.optim.AdamW(others, lr=config.learning_rate, betas=BETAS, weight_decay=0.0),
        torch.optim.Muon(
            matrices,
            lr=config.matrix_learning_rate,
            momentum=MATRIX_MOMENTUM,
            weight_decay=MATRIX_WEIGHT_DECAY,
        ),
    ]


def cosine_share(step: int, steps: int, *, warmup: float, final: float) -> float:
    """The share of the full learning rate at a step, counted from 0.

    A linear rise over the share `warmup` of the steps, then half a cosine down to `final`.
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2


def _train(
    model: Any, ids: Tensor, weights: Tensor, config: BaseModelConfig, device: Device
) -> list[TrainingStep]:
    import torch
    from torch.nn.functional import cross_entropy

    optimisers = _optimisers(model, config)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    model.train()
    steps = []
    with progress.task("training the offline base model", config.steps) as advance:
        for step in range(config.steps):
            share = cosine_share(step, config.steps, warmup=WARMUP_SHARE, final=FINAL_RATE_SHARE)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * share
            rows = slice(step * config.batch_size, (step + 1) * config.batch_size)
            batch = ids[rows].to(device.name)
            weight = weights[rows, 1:].flatten().to(device.name)
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            losses = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            model.zero_grad(set_to_none=True)
            ((losses * weight).sum() / weight.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            for optimiser in optimisers:
                optimiser.step()
            steps.append(TrainingStep(step + 1, losses.mean().item(), config.learning_rate * share))
            advance(1, loss=steps[-1].loss)
    model.eval()
    return steps
