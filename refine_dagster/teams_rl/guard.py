"""The collapse guard: what an instructor that games its reward looks like, and when to end it.

A policy that is paid for rewrites that differ finds the operation that always differs, and then
does nothing else: validity rises, the dataset narrows (methods C). The guard looks at the means of
the last `guard_window` updates and at what a random policy did with the same number of calls:

- `diversity`: more rewrites are valid than in the first window, and the Vendi score of what was
  kept is below the random policy's.
- `operations`: the entropy of the chosen operations is below `min_operation_entropy`.

It warns, and after `guard_patience` further warnings in a row ends the training. It is a function
of the updates so far, so a training that was killed and goes on ends where an undisturbed one does.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Literal

from refine_dagster.teams_rl.knobs import TeamsRLKnobs

Collapse = Literal["diversity", "operations"]


@dataclass(frozen=True)
class InstructorUpdate:
    """One update's episodes; a row of the training's table.

    Attributes:
        update: from 1.
        steps: steps so far.
        reward, valid_rate: means over its steps.
        diversity: Vendi score of the texts that were kept.
        random_diversity: what a random policy reaches in as many steps.
        operation_entropy: entropy of the chosen operations, nats, 0 to log 6.
        calls: calls so far of executor and reviewer, the random policy's included.
        warning: what the guard sees after this update.
    """

    update: int
    steps: int
    reward: float
    valid_rate: float
    diversity: float
    random_diversity: float
    operation_entropy: float
    calls: int
    warning: Collapse | None = None


def warning_of(updates: Sequence[InstructorUpdate], knobs: TeamsRLKnobs) -> Collapse | None:
    """What the guard sees after the last of these updates; None where all is well."""
    window = knobs.guard_window
    if len(updates) < 2 * window:
        return None
    first, last = updates[:window], updates[-window:]
    if fmean(row.operation_entropy for row in last) < knobs.min_operation_entropy:
        return "operations"
    rising = fmean(row.valid_rate for row in last) > fmean(row.valid_rate for row in first)
    narrow = fmean(row.diversity for row in last) < fmean(row.random_diversity for row in last)
    return "diversity" if rising and narrow else None


def guard_of(updates: Sequence[InstructorUpdate], knobs: TeamsRLKnobs) -> Collapse | None:
    """The reason to end the training after these updates; None where it may go on."""
    last = updates[-(knobs.guard_patience + 1) :]
    if len(last) <= knobs.guard_patience or any(row.warning is None for row in last):
        return None
    return last[-1].warning


def operation_entropy(operations: Sequence[int]) -> float:
    """Entropy of how often each operation was chosen, nats.

    >>> operation_entropy([2, 2, 2])
    0.0
    """
    counts = Counter(operations)
    shares = [count / len(operations) for count in counts.values()]
    return max(0.0, -sum(share * math.log(share) for share in shares))
