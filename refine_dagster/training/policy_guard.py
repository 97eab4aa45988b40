"""Guards: reasons to end a policy's training before its last step.

A reward learnt from data is right only near the data. A policy that goes on climbing it ends in
text that the judge overrates, and what that looks like is known: the policy is far from the one
that it began as (`kl`), it says the same again and again while its reward rises (`diversity`), or
it no longer keeps the format (`invalid_format`). Each guard is a function of the steps so far and
nothing else, so a training that was killed and goes on ends where an undisturbed one does.

Figures of a step are means over some dozen rollouts and noisy: what is compared is the mean of the
last `guard_window` steps, and where a guard speaks of a change, with the mean of the first ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from refine_dagster.knobs import ReinforcementKnobs
from refine_dagster.training.policy_steps import EndedBy, PolicyStep


def guard_of(steps: Sequence[PolicyStep], knobs: ReinforcementKnobs) -> EndedBy | None:
    """The guard that ends the training after these steps; None where it may go on.

    The first that fires, in this order:

    - `kl`: the mean divergence of the last window is above `max_kl`.
    - `diversity`: its mean reward is above the first window's, and its mean share of distinct
      bigrams below `min_diversity_share` of the first window's.
    - `invalid_format`: its share of rollouts refused by the format gate is more than
      `max_invalid_rise` above the first window's.

    Args:
        steps: all steps so far, in order.
        knobs: the bounds and the window, in steps.
    """
    window = knobs.guard_window
    if len(steps) < window:
        return None
    first, last = steps[:window], steps[-window:]
    if fmean(step.kl for step in last) > knobs.max_kl:
        return "kl"
    if len(steps) < 2 * window:
        return None
    rising = fmean(step.reward for step in last) > fmean(step.reward for step in first)
    floor = knobs.min_diversity_share * fmean(step.diversity for step in first)
    if rising and fmean(step.diversity for step in last) < floor:
        return "diversity"
    rise = fmean(step.format_valid for step in first) - fmean(step.format_valid for step in last)
    if rise > knobs.max_invalid_rise:
        return "invalid_format"
    return None
