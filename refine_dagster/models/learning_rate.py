"""The learning rate's course over a training."""

from __future__ import annotations

import math


def cosine_share(step: int, steps: int, *, warmup: float, final: float) -> float:
    """The share of the full rate: a linear warm-up to 1, then half a cosine down to `final`.

    Args:
        step: from 0.
        warmup: share of the steps over which the rate rises.
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, steps - rising)
    return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2
