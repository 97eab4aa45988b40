"""The offline base model: a small Llama trained on the spot, so that no network is needed.

It learns the pipeline's two prompt formats from a primer of generated tasks and the user's seeds,
and stops early on purpose: a model that has read them longer writes them down instead of
recombining them. What it gets wrong is left for the automated feedback to mend.

A minute on one core is some half a million tokens, so each must teach as much as it can. Some heads
start out looking back (`look_back`), the tokens of outputs count more (`base_rows`), and the weight
matrices are trained by Muon, which makes each update orthogonal so that no few directions eat it
up (Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"); embeddings and
vectors, for which that is not meant, are trained by AdamW.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_dagster import progress
from refine_dagster.device import Device
from refine_dagster.generation.request import request_seed
from refine_dagster.knobs import BaseModelKnobs
from refine_dagster.language_model import ModelError
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.training.base_corpus import Corpus
from refine_dagster.training.base_rows import encode_rows
from refine_dagster.training.look_back import look_back
from refine_dagster.training.primer import primer_tasks
from refine_dagster.training.tokenizer import train_tokenizer

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
    seeds: Sequence[Triple], knobs: BaseModelKnobs, out: Path, device: Device, salt: str
) -> BaseModelTraining:
    """Train tokenizer and model and save both, in Hugging Face format, in the folder `out`.

    Equal arguments on one machine give equal files. The weights are trained and saved in float32.

    Raises:
        ModelError: the knobs' shapes do not fit together.
    """
    import torch
    from transformers.utils import logging

    _check(knobs)
    rng = random.Random(request_seed(salt, "base_model", "corpus"))
    primer = primer_tasks(knobs.primer_tasks, request_seed(salt, "base_model", "primer"))
    corpus = Corpus(seeds, [task.triple for task in primer], rng)
    characters = knobs.sequence_length * CHARACTERS_PER_TOKEN
    rows = list(corpus.rows(knobs.steps * knobs.batch_size, characters))
    tokenizer = train_tokenizer(rows[:TOKENIZER_ROWS], knobs.vocab_size, knobs.context_length)
    ids, weights = encode_rows(tokenizer, rows, knobs.sequence_length, knobs.output_weight)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request_seed(salt, "base_model", "weights"))
        model = _new_model(knobs, tokenizer).to(device.name)
    steps = _train(model, ids, weights, knobs, device)
    logging.disable_progress_bar()
    model.to("cpu").save_pretrained(out)
    tokenizer.save_pretrained(out)
    return BaseModelTraining(steps, model.num_parameters())


def _check(knobs: BaseModelKnobs) -> None:
    head_width, rest = divmod(knobs.hidden_size, knobs.heads)
    if rest or head_width < MIN_HEAD_WIDTH or head_width % 2:
        raise ModelError(
            f"a width of {knobs.hidden_size} does not make {knobs.heads} heads of an even width of "
            f"at least {MIN_HEAD_WIDTH}",
            where="knobs base_model.hidden_size and base_model.heads",
            fix=f"take fewer heads, or a width of {knobs.heads * MIN_HEAD_WIDTH}",
        )
    if knobs.look_back_heads > knobs.heads:
        raise ModelError(
            f"{knobs.look_back_heads} heads cannot look back where a layer has {knobs.heads}",
            where="knobs base_model.look_back_heads and base_model.heads",
            fix=f"take at most {knobs.heads} heads that look back",
        )
    if knobs.sequence_length > knobs.context_length:
        raise ModelError(
            f"training sequences of {knobs.sequence_length} tokens are longer than the context of "
            f"{knobs.context_length}",
            where="knobs base_model.sequence_length and base_model.context_length",
            fix="lower the first or raise the second",
        )


def _new_model(knobs: BaseModelKnobs, tokenizer: Any) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    feed_forward = knobs.hidden_size * FEED_FORWARD_RATIO / FEED_FORWARD_STEP
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=knobs.hidden_size,
            intermediate_size=math.ceil(feed_forward) * FEED_FORWARD_STEP,
            num_hidden_layers=knobs.layers,
            num_attention_heads=knobs.heads,
            num_key_value_heads=knobs.heads,
            max_position_embeddings=knobs.context_length,
            initializer_range=INITIAL_DEVIATION,
            attention_bias=True,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    look_back(model, knobs.look_back_heads)
    return model


def _optimisers(model: Any, knobs: BaseModelKnobs) -> list[Any]:
    """AdamW for embeddings and vectors, then Muon for matrices."""
    import torch

    matrices = [weight for weight in model.model.layers.parameters() if weight.ndim == 2]
    # Output and input embeddings are one tensor, which `parameters` yields once.
    others = [weight for weight in model.parameters() if all(weight is not m for m in matrices)]
    return [
        torch.optim.AdamW(others, lr=knobs.learning_rate, betas=BETAS, weight_decay=0.0),
        torch.optim.Muon(
            matrices,
            lr=knobs.matrix_learning_rate,
            momentum=MATRIX_MOMENTUM,
            weight_decay=MATRIX_WEIGHT_DECAY,
        ),
    ]


def _train(
    model: Any, ids: Any, weights: Any, knobs: BaseModelKnobs, device: Device
) -> list[TrainingStep]:
    """Pass once over the rows, in order; every row is read exactly once."""
    import torch
    from torch.nn.functional import cross_entropy

    optimisers = _optimisers(model, knobs)
    groups = [group for optimiser in optimisers for group in optimiser.param_groups]
    peaks = [group["lr"] for group in groups]
    model.train()
    done = []
    with progress.task("training the offline base model", knobs.steps) as advance:
        for step in range(knobs.steps):
            share = _rate_share(step, knobs.steps)
            for group, peak in zip(groups, peaks, strict=True):
                group["lr"] = peak * share
            rows = slice(step * knobs.batch_size, (step + 1) * knobs.batch_size)
            batch = ids[rows].to(device.name)
            weight = weights[rows, 1:].flatten().to(device.name)
            logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
            losses = cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten(), reduction="none")
            model.zero_grad(set_to_none=True)
            ((losses * weight).sum() / weight.sum()).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)
            for optimiser in optimisers:
                optimiser.step()
            done.append(TrainingStep(step + 1, losses.mean().item(), knobs.learning_rate * share))
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
