"""The offline base model: a small Llama trained on the spot, so that no network is needed.

It learns the pipeline's two prompt formats from a primer of generated tasks and the user's seeds,
and stops early on purpose: a model that has read them longer writes them down instead of
recombining them. What it gets wrong is left for the automated feedback to mend.

A minute on one core is some half a million tokens, so each must teach as much as it can. Some heads
start out looking back (`previous_token_heads`), the tokens of outputs count more (`base_rows`), and
the weight matrices are trained by Muon, which makes each update orthogonal so that no few
directions eat it up (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural
networks"); embeddings and vectors, for which that is not meant, are trained by AdamW.

What the offline base model reads: rows of text in the pipeline's own prompt formats.

A row is documents one after another, parted by the end token; the first starts the row, as a
prompt does at inference. There are two kinds of row: the requirement list followed by
numbered instructions (the prompt of stage 1, gone on with), and the header followed by whole
examples (the prompt of stage 2, gone on with). Both mix primer tasks with the user's seeds.

The offline base model's rows of text as tensors: token ids, and how much each token counts.

An output is the shortest part of an example and the only one that the task decides; in a plain mean
of the tokens' losses it drowns in the wording around it. Its tokens therefore count several times.

How the offline base model's first layer is born: with heads that look at the words just before.

In-context learning, copying a word of the prompt above all, is the work of induction heads: they
look for an earlier place whose *preceding* token is the present one, and repeat what stood there.
They can only form on top of heads of an earlier layer that look back by one token, and both take
a sudden shape late in training (Olsson et al. 2022, "In-context Learning and Induction Heads",
arXiv 2209.11895). A model trained for a minute does not find even the first of them by itself. A
head that looks back by a fixed number of tokens, however, needs no learning: with rotary positions
it is two constant vectors. Starting from weights that already hold a useful structure is known as
mimetic initialisation (Trockman and Kolter 2023, arXiv 2305.09828).

With every pair of a head's dimensions written as one complex number, rotary attention between a
query q and a key k that stands d tokens before it scores Re(sum of q * conj(k) * exp(i w d)) over
the pairs, w being a pair's frequency. A key that is always the constant a, and a query that is
always a * exp(-i w n), score a^2 cos(w (d - n)) a pair: most at d = n, whatever the tokens are.
These constants are the biases of the queries and keys; like all other weights they stay free to be
trained, and the model is an ordinary Llama with `attention_bias`.

The offline base model's tokenizer: byte-level BPE, trained on the spot.

Two choices serve a small model that lives on few-shot prompts. A line break is always a token of
its own, so a prompt that ends where a completion begins is cut into the same tokens as the joined
text of training. A digit is a token of its own, so numbers are spelt out the same way everywhere.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from refine_dagster import progress
from refine_dagster.config.models import BaseModelConfig
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelError
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.instance import HEADER
from refine_dagster.prompts.proposal import propose_prompt
from refine_dagster.seeding import request_seed

# Length of the constant vectors in each pair of dimensions: the score at the wanted distance is the
# sum of its squares over the pairs, over the root of the head's width.
AMPLITUDE = 5.0
# Pairs used, from the quickest frequency on; slower ones hardly tell neighbours apart.
PAIRS = 8


def previous_token_heads(model: Any, heads: int) -> None:
    """Make the first `heads` heads of the first layer look back by 1, 2, ... tokens.

    Args:
        model: a freshly drawn `LlamaForCausalLM` with `attention_bias` and as many key heads as
            query heads.
        heads: how many, at most the model's heads; the others are left as they were drawn.
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


END = "<|end|>"
PAD = "<|pad|>"

# In order: a line break; an English contraction; a word, one digit or a run of signs, each with the
# blank before it; other blanks.
PIECES = r"\n|'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}+| ?\p{N}| ?[^\s\p{L}\p{N}]+|[^\S\n]+"


def train_tokenizer(texts: Iterable[str], vocab_size: int, context_length: int) -> Any:
    """Train a tokenizer on `texts`; equal texts give equal files.

    Args:
        vocab_size: entries wanted, the 256 bytes and 2 special tokens included; texts too small for
            as many give fewer.
        context_length: recorded as the longest sequence.

    Returns:
        A `transformers.PreTrainedTokenizerFast` that pads on the left.
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


# Share of the lines and examples that is drawn from the seeds; the rest is the primer's. At this
# share and the default steps about 1 proposal in 35 is a seed word for word.
SEED_SHARE = 0.15
# Share of rows that are lists of instructions; the others are examples, which take longer to learn.
PROPOSE_SHARE = 0.25
LIST_LENGTHS = (10, 20)
TRIPLE_COUNTS = (4, 10)

T = TypeVar("T")


class Corpus:
    """Documents drawn from seeds and primer.

    Args:
        seeds: the user's seed examples; without any, everything is drawn from the primer.
        primer: generated examples, at least one.
        rng: source of every draw.
    """

    def __init__(
        self, seeds: Sequence[Example], primer: Sequence[Example], rng: random.Random
    ) -> None:
        self._seeds = list(seeds)
        self._primer = list(primer)
        self._rng = rng
        self._seed_lines = sorted({example.instruction for example in seeds})
        self._primer_lines = sorted({example.instruction for example in primer})

    def rows(self, count: int, characters: int) -> Iterator[str]:
        """`count` rows of text of `characters` characters each; the last document may be cut."""
        for _ in range(count):
            yield self._row(characters)

    def _row(self, characters: int) -> str:
        lists = self._rng.random() < PROPOSE_SHARE
        text = ""
        while len(text) < characters:
            text += (self._list() if lists else self._examples()) + END
        return text[:characters]

    def _list(self) -> str:
        """The requirements and a numbered list without repetition."""
        wanted = self._rng.randint(*LIST_LENGTHS)
        # A dict keeps the order of the draws and drops repetitions.
        lines: dict[str, None] = {}
        for _ in range(wanted):
            lines[self._draw(self._seed_lines, self._primer_lines)] = None
        *shown, last = lines
        return f"{propose_prompt(shown)} {last}"

    def _examples(self) -> str:
        count = self._rng.randint(*TRIPLE_COUNTS)
        drawn = [self._draw(self._seeds, self._primer) for _ in range(count)]
        return "\n\n".join([HEADER, *(example.render() for example in drawn)])

    def _draw(self, seeds: Sequence[T], primer: Sequence[T]) -> T:
        from_seeds = self._rng.random() < SEED_SHARE
        return self._rng.choice(seeds if seeds and from_seeds else primer)


# An output's first line, with the sign that ends it: a line break or the end token.
OUTPUT = re.compile(rf"(?<=^Output:)[^\n]*?(?:\n|{re.escape(END)}|\Z)", re.MULTILINE)


def encode_rows(
    tokenizer: Any, rows: Sequence[str], length: int, output_weight: float
) -> tuple[Any, Any]:
    """Ids and weights of the rows' first `length` tokens.

    A row is encoded as one text: pieces encoded one by one would meet in other tokens than a
    prompt's do. A row of fewer tokens (long runs of one sign are few) is read again from its start.

    Returns:
        `ids`, int64, and `weights`, float32, both of shape (rows, length). A token of an example's
        output weighs `output_weight`, any other 1.
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
        outputs = in_output(row, spans)
        weighed = [output_weight if inside else 1.0 for inside in outputs]
        ids.append((tokens * repeats)[:length])
        weights.append((weighed * repeats)[:length])
    return torch.tensor(ids), torch.tensor(weights)


def in_output(row: str, spans: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """For each token, given by its span of characters in order, whether it lies in an output."""
    outputs = OUTPUT.finditer(row)
    output = next(outputs, None)
    for start, _ in spans:
        while output is not None and output.end() <= start:
            output = next(outputs, None)
        yield output is not None and output.start() <= start


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
# Rows of text the tokenizer is trained on, from the first.
TOKENIZER_ROWS = 400
# More characters than a token of ordinary text stands for; rows are cut to length in tokens.
CHARACTERS_PER_TOKEN = 6


@dataclass(frozen=True)
class TrainingStep:
    """One optimiser step.

    Attributes:
        step: its number, from 1.
        loss: mean over the batch's tokens, each counted once, in nats.
        learning_rate: AdamW's; Muon's is in a fixed proportion to it.
    """

    step: int
    loss: float
    learning_rate: float


@dataclass(frozen=True)
class BaseModelTraining:
    """What training did: every step, and how many parameters the model has."""

    steps: list[TrainingStep]
    parameters: int


def train_base_model(
    seeds: Sequence[Example], config: BaseModelConfig, out: Path, device: Device, run_seed: str
) -> BaseModelTraining:
    """Train tokenizer and model and save both, in Hugging Face format, in the folder `out`.

    Equal arguments on one machine give equal files. The weights are trained and saved in float32.

    Raises:
        ModelError: the config' shapes do not fit together.
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


def _check(config: BaseModelConfig) -> None:
    head_width, rest = divmod(config.hidden_size, config.heads)
    if rest or head_width < MIN_HEAD_WIDTH or head_width % 2:
        raise ModelError(
            f"a width of {config.hidden_size} does not make {config.heads} heads of an even width "
            f"of at least {MIN_HEAD_WIDTH}",
            where="config base_model.hidden_size and base_model.heads",
            fix=f"take fewer heads, or a width of {config.heads * MIN_HEAD_WIDTH}",
        )
    if config.previous_token_heads > config.heads:
        raise ModelError(
            f"{config.previous_token_heads} previous-token heads, where a layer has {config.heads}",
            where="knobs base_model.previous_token_heads and base_model.heads",
            fix=f"take at most {config.heads} heads that look back",
        )
    if config.sequence_length > config.context_length:
        raise ModelError(
            f"training sequences of {config.sequence_length} tokens are longer than the context of "
            f"{config.context_length}",
            where="knobs base_model.sequence_length and base_model.context_length",
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


def _train(
    model: Any, ids: Any, weights: Any, config: BaseModelConfig, device: Device
) -> list[TrainingStep]:
    """Pass once over the rows, in order; every row is read exactly once."""
    import torch
    from torch.nn.functional import cross_entropy

    optimisers = _optimisers(model, config)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    model.train()
    done = []
    with progress.task("training the offline base model", config.steps) as advance:
        for step in range(config.steps):
            share = _rate_share(step, config.steps)
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
            done.append(TrainingStep(step + 1, losses.mean().item(), config.learning_rate * share))
            advance(1, loss=done[-1].loss)
    model.eval()
    return done


def _rate_share(step: int, steps: int) -> float:
    """Linear warm-up to 1, then half a cosine down to `FINAL_RATE_SHARE`."""
    warmup = max(1, round(steps * WARMUP_SHARE))
    if step < warmup:
        return (step + 1) / warmup
    way = (step - warmup) / max(1, steps - warmup)
    return FINAL_RATE_SHARE + (1 - FINAL_RATE_SHARE) * (1 + math.cos(math.pi * way)) / 2
