"""Rollouts: completions sampled from a policy while it is being trained, token ids kept.

TRL decodes to the end-of-sequence token only, while a policy prompt's completion also ends at a
stop string; what a model writes after it is no part of the completion and must get no gradient.
So rollouts are decoded here. Each one draws its noise from a seed of its own, and a group's prompt
is read once: its key-value cache is then copied for every rollout of the group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Rollout:
    """One sampled completion.

    Attributes:
        prompt_ids: the prompt's tokens.
        completion_ids: the tokens that the policy chose, up to and with the one that ended it.
        text: the completion without the stop string or the end-of-sequence token.
        finished: False where the length limit ended it.
    """

    prompt_ids: list[int]
    completion_ids: list[int]
    text: str
    finished: bool


@dataclass
class _Writing:
    """A rollout in the making."""

    prompt: int
    uniforms: list[float]
    ids: list[int] = field(default_factory=list)
    text: str | None = None


def sample_rollouts(
    model: Any,
    tokenizer: Any,
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
        prompts: n texts.
        seeds: n lists of seeds, one rollout each.
        max_new_tokens: longest completion in tokens, at least 1.
        temperature: divides the logits, above 0.
        stop: strings that end a completion.

    Returns:
        The rollouts, prompt by prompt, in the order of their seeds.
    """
    import numpy
    import torch

    prompt_ids: list[list[int]] = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    rollouts = [
        _Writing(prompt, numpy.random.default_rng(seed).random(max_new_tokens).tolist())
        for prompt, group in enumerate(seeds)
        for seed in group
    ]
    ends = _end_ids(model, tokenizer)
    with torch.no_grad(), _reading(model):
        ids, mask = _pad_left(prompt_ids, tokenizer.pad_token_id, model.device)
        read = model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=_positions(mask),
            use_cache=True,
            logits_to_keep=1,
        )
        cache = read.past_key_values
        copies = torch.tensor([rollout.prompt for rollout in rollouts], device=model.device)
        cache.batch_select_indices(copies)
        mask, logits = mask[copies], read.logits[copies, -1]
        writing = list(rollouts)
        for position in range(max_new_tokens):
            uniforms = [rollout.uniforms[position] for rollout in writing]
            chosen = _draw(logits, uniforms, temperature)
            for rollout, token in zip(writing, chosen, strict=True):
                rollout.ids.append(token)
                rollout.text = _ended(rollout.ids, tokenizer, ends, stop)
            going = [row for row, rollout in enumerate(writing) if rollout.text is None]
            if not going or position + 1 == max_new_tokens:
                break
            if len(going) < len(writing):
                rows = torch.tensor(going, device=model.device)
                cache.batch_select_indices(rows)
                mask = mask[rows]
                writing = [writing[row] for row in going]
            mask = torch.cat([mask, mask.new_ones(len(writing), 1)], dim=1)
            logits = model(
                input_ids=torch.tensor([[r.ids[-1]] for r in writing], device=model.device),
                attention_mask=mask,
                position_ids=_positions(mask)[:, -1:],
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
    return [
        Rollout(
            prompt_ids[rollout.prompt],
            rollout.ids,
            _text(rollout.ids, tokenizer) if rollout.text is None else rollout.text,
            rollout.text is not None,
        )
        for rollout in rollouts
    ]


@contextmanager
def _reading(model: Any) -> Iterator[None]:
    """Eval mode inside the block: no dropout, and a cache even under gradient checkpointing."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _pad_left(rows: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[Any, Any]:
    """Token ids and attention mask, both (rows, longest row)."""
    import torch

    width = max(len(row) for row in rows)
    ids = [[pad] * (width - len(row)) + list(row) for row in rows]
    mask = [[0] * (width - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _positions(mask: Any) -> Any:
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _draw(logits: Any, uniforms: Sequence[float], temperature: float) -> list[int]:
    """One token a row by inverting the distribution function at the row's own uniform number.

    On the CPU and in float64: a card's cumulative sums are not deterministic.
    """
    import torch

    weights = torch.softmax(logits.detach().cpu().double() / temperature, dim=-1).cumsum(dim=-1)
    targets = torch.tensor(uniforms, dtype=torch.float64).unsqueeze(1) * weights[:, -1:]
    chosen = torch.searchsorted(weights, targets, right=True).squeeze(1)
    tokens: list[int] = chosen.clamp(max=weights.shape[1] - 1).tolist()
    return tokens


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    """Every end-of-sequence token that the model or its tokenizer declares."""
    declared = model.generation_config.eos_token_id
    named = declared if isinstance(declared, list) else [declared]
    return {token for token in [*named, tokenizer.eos_token_id] if token is not None}


def _ended(ids: Sequence[int], tokenizer: Any, ends: set[int], stop: Sequence[str]) -> str | None:
    """The text of a completion that has just ended, or None where it goes on."""
    if ids[-1] in ends:
        return _text(ids[:-1], tokenizer)
    # A stop string of n bytes lies within the last n tokens, and none lay before the last token.
    reach = max((len(text.encode()) for text in stop), default=0)
    tail = _text(ids[-reach:], tokenizer) if reach else ""
    if not any(text in tail for text in stop):
        return None
    whole = _text(ids, tokenizer)
    return min((whole.split(text, 1)[0] for text in stop), key=len)


def _text(ids: Sequence[int], tokenizer: Any) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
