"""What all prompts of a batch begin with is read once.

Prompts of one role begin with the same words, the instruction of the task and often its examples.
Their keys and values are computed in a batch of one and repeated for the others; what follows is
padded between the shared start and a prompt's own rest. The values are those of each prompt read
alone, up to the rounding of matrix products of another shape: so this is for batches whose
rounding depends on the neighbours anyway, and not for deterministic mode.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile
from typing import Any

# Tokens from which on a second call of the model is worth it.
SHORTEST = 16


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, the last token of each left out.

    0 where there are fewer than two prompts or fewer than `SHORTEST` tokens.

    >>> shared_start([list(range(20)) + [7], list(range(20)) + [8, 9]])
    20
    """
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    found = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    return found if found >= SHORTEST else 0


def read_once(model: Any, start: Sequence[int], rows: int) -> Any | None:
    """The cache of a start of all rows, computed once; None where the model's cannot be repeated.

    Args:
        start: token ids.
        rows: how many rows begin with them.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    ids = torch.tensor([list(start)], device=model.device)
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    # A sliding window counts the padding behind the start; a state space has no keys to repeat.
    if any(type(layer) is not DynamicLayer for layer in getattr(cache, "layers", [None])):
        return None
    cache.batch_repeat_interleave(rows)
    return cache
