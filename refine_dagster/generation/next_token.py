"""The next token from a model's logits, and the noise that decides it: a request's own."""

from __future__ import annotations

from collections.abc import Sequence

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


def choose_token(
    logits: NDArray[np.float32], written: Sequence[int], sampling: Sampling, uniform: float
) -> int:
    """The token at `uniform` of the cumulative next-token distribution, in float64.

    Args:
        logits: of one row, shape (vocabulary,).
        written: the completion's tokens so far; each is penalised once.
        sampling: temperature 0 takes the likeliest token, the lowest id where several are.
        uniform: number in [0, 1).

    Returns:
        The token's id. Nucleus: likeliest first, equal ones by id, the shortest start of that list
        whose probabilities reach `top_p`.
    """
    scores = logits.astype(np.float64)
    if sampling.presence_penalty and written:
        scores[np.unique(written)] -= sampling.presence_penalty
    if sampling.temperature <= 0:
        return int(scores.argmax())
    scores = (scores - scores.max()) / sampling.temperature
    weights = np.exp(scores)
    if sampling.top_p >= 1:
        ids = np.arange(weights.size)
    else:
        total = weights.sum()
        # Tokens under this share of the mass together weigh less than what the nucleus leaves out.
        ids = np.flatnonzero(weights >= total * (1 - sampling.top_p) / weights.size)
        ids = ids[np.argsort(-weights[ids], kind="stable")]
        kept = int(np.searchsorted(weights[ids].cumsum(), total * sampling.top_p)) + 1
        ids = ids[:kept]
    cumulative = weights[ids].cumsum()
    place = int(np.searchsorted(cumulative, uniform * cumulative[-1], side="right"))
    # Rounding may put the product on the last sum itself.
    return int(ids[min(place, ids.size - 1)])
