"""Rollouts: completions sampled from a policy while it is being trained, token ids kept.

TRL decodes to the end-of-sequence token only, while a policy prompt's completion also ends at a
stop string; what a model writes after it is no part of the completion and must get no gradient.
So rollouts are decoded here. Each one draws its noise from a seed of its own, and a group's prompt
is read once: its key-value cache is then copied for every rollout of the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from refine_dagster.generation.decoding import Sequences, Writing, write
from refine_dagster.generation.model_text import ModelText
from refine_dagster.generation.request import Sampling
from refine_dagster.models.padding import pad_left

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Attributes:
        completion_ids: the tokens that the policy chose, the one that ended it included.
        text: without the stop string or the end-of-sequence token.
        finished: False where the length limit ended it.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    finished: bool


def sample_rollouts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    seeds: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    temperature: float,
    stop: Sequence[str],
) -> list[Rollout]:
    """Sample from the whole next-token distribution (no nucleus: the loss assumes none).

    Args:
        model: a causal language model with key-value cache; its adapter, if any, stays active.
        seeds: for each prompt a list of seeds, one rollout each.
        temperature: above 0.
        stop: strings that end a completion.

    Returns:
        The rollouts, prompt by prompt, in the order of their seeds.
    """
    import torch

    text = ModelText.of(model, tokenizer)
    sampling = Sampling(max_new_tokens, temperature, stop=tuple(stop))
    prompt_ids = [text.prompt(prompt) for prompt in prompts]
    rows = [
        Writing(ids, sampling, iter(np.random.default_rng(seed).random(max_new_tokens).tolist()))
        for ids, group in zip(prompt_ids, seeds, strict=True)
        for seed in group
    ]
    with torch.no_grad(), _evaluating(model):
        sequences = Sequences(model, pad_left(prompt_ids, tokenizer.pad_token_id), max_new_tokens)
        sequences.select([place for place, group in enumerate(seeds) for _ in group])
        write(rows, sequences, text, drop_ended=True)
    return [
        Rollout(row.prompt, row.written, row.completion(text).text, row.finish != "length")
        for row in rows
    ]


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Eval mode inside the block: no dropout, and a cache even under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
