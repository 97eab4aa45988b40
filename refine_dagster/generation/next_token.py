"""The next tokens from a model's logits, and the noise that decides each: a request's own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from refine_dagster.generation.request import Sampling


class Noise:
    """Uniform numbers in [0, 1) of one request: Philox counters keyed by its seed, 64 at a time."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.Philox(key=seed)
        self._block: list[float] = []

    def draw(self) -> float:
        """The next number."""
        if not self._block:
            raw = self._source.random_raw(64)
            # The upper 53 bits, a double's worth; last first, since `pop` takes from the end.
            self._block = ((raw >> np.uint64(11)) * 2.0**-53)[::-1].tolist()
        return self._block.pop()


def choose_tokens(
    logits: NDArray[np.float32],
    written: Sequence[Collection[int]],
    samplings: Sequence[Sampling],
    uniforms: Sequence[float],
) -> list[int]:
    """The token at `uniform` of each row's cumulative next-token distribution, in float64.

    A row's token depends on that row alone: the same bits come out in any company.

    Args:
        logits: shape (rows, vocabulary).
        written: tokens of each row's completion so far; each is penalised once.
        samplings: temperature 0 takes the likeliest token, the lowest id where several are.
        uniforms: numbers in [0, 1).

    Returns:
        Each row's token id. Nucleus: likeliest first, equal ones by id, the shortest start of that
        list whose probabilities reach `top_p`.
    """
    scores = logits.astype(np.float64)
    for row, (tokens, sampling) in enumerate(zip(written, samplings, strict=True)):
        if sampling.presence_penalty and tokens:
            scores[row, list(set(tokens))] -= sampling.presence_penalty
    temperatures = [one.temperature if one.temperature > 0 else 1.0 for one in samplings]
    weights = scores - scores.max(axis=1, keepdims=True)
    weights /= np.array(temperatures)[:, np.newaxis]
    np.exp(weights, out=weights)
    return [
        _token_at(weights[row], sampling.top_p, uniform)
        if sampling.temperature > 0
        else int(scores[row].argmax())
        for row, (sampling, uniform) in enumerate(zip(samplings, uniforms, strict=True))
    ]


def _token_at(weights: NDArray[np.float64], top_p: float, uniform: float) -> int:
    """The token at `uniform` of a row of unnormalised probabilities (`choose_tokens`)."""
    if top_p >= 1:
        cumulative = weights.cumsum()
        place = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
        # Rounding may put the product on the last sum itself.
        return min(place, weights.size - 1)
    total = weights.sum()
    # Tokens under this share of the mass together weigh less than what the nucleus leaves out.
    ids = (weights >= total * (1 - top_p) / weights.size).nonzero()[0]
    found = weights[ids]
    order = (-found).argsort(kind="stable")
    cumulative = found[order].cumsum()
    kept = int(cumulative.searchsorted(total * top_p)) + 1
    cumulative = cumulative[:kept]
    place = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return int(ids[order[min(place, cumulative.size - 1)]])
