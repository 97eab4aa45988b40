"""The reward rule: parts weighed into one number, by a named preset (docs/methods.md, section 2.3).

`refine_af` is the published rule,

    R = 0.0078 Rew - 0.4421 Und + 0.3212 Nat + 0.1520 Coh - 0.0274

fitted to the loss of models from the means of whole datasets. Naturalness and understandability are
nearly one number there, so as a reward for single texts the rule pays for whatever drives the two
apart. It is kept for comparison with the paper; two presets stand beside it:

- `coherence_only`: the one part that looks at the task. It cannot be earned with fluent text that
  answers something else, but does not protect the wording.
- `balanced`, this project's own. Every part has the sign of its meaning. A question counts once,
  however many parts answer it: does the output answer the task (coherence, one half), would it be
  preferred (the Bradley-Terry reward, one quarter), does it read well (naturalness and
  understandability, one quarter). The weights assume whitened parts: raw, the Bradley-Terry reward
  outweighs the others.

Raw parts are stored beside every reward, so another rule can be applied without judging again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

from refine_dagster.judge.judge import Scores

# A part with a smaller deviation does not vary but by rounding; it is centred and not scaled.
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Moments:
    """Mean and population standard deviation of a part."""

    mean: float
    deviation: float

    def standardised(self, value: float) -> float:
        centred = value - self.mean
        return centred / self.deviation if self.deviation > LEAST_DEVIATION else centred


# Part -> its moments over the base policy's scores.
Whitening = Mapping[str, Moments]


def fit_whitening(scores: Sequence[Scores]) -> Whitening:
    """Mean and deviation of each part over `scores`."""
    if not scores:
        raise ValueError("there are no scores to fit the whitening on")
    columns = {part: [row[part] for row in scores] for part in scores[0]}
    return {part: Moments(fmean(values), pstdev(values)) for part, values in columns.items()}


@dataclass(frozen=True)
class RewardRule:
    """A linear rule over reward parts.

    With whitening, an example of average parts has the constant as its reward.

    Attributes:
        weights: part -> weight, in the order in which the products are added.
        whitening: standardises the parts first; None weighs the raw parts, as published.
        diversity: this times a rollout's `repetition` is taken off its reward; 0 or more. Rows of a
            dataset are not charged, as the reward of a row must not depend on other rows.
    """

    name: str
    weights: Mapping[str, float]
    constant: float
    whitening: Whitening | None = None
    diversity: float = 0.0

    def reward(self, scores: Scores) -> float:
        # Not `sum`, which compensates rounding from Python 3.12 on: a reward is part of a row's id.
        total = 0.0
        for part, weight in self.weights.items():
            value = scores[part]
            if self.whitening:
                value = self.whitening[part].standardised(value)
            total += weight * value
        return total + self.constant

    def whitened(self, scores: Sequence[Scores]) -> RewardRule:
        """This rule with the parts standardised over `scores` (the base policy's)."""
        return replace(self, whitening=fit_whitening(scores))

    def manifest(self) -> dict[str, Any]:
        """The rule as JSON values, for the manifests of checkpoints."""
        moments = {part: asdict(its) for part, its in (self.whitening or {}).items()}
        return {
            **self.weights,
            "name": self.name,
            "constant": self.constant,
            "whitening": moments or None,
            "diversity": self.diversity,
        }


def repetition(instructions: Sequence[str], texts: Sequence[str]) -> list[float]:
    """How much of each answer is also given to other instructions of its step, 0 to 1.

    This detects a policy that collapses to one text that the judge likes. An answer's repetition is
    the mean, over its different pairs of neighbouring words, of the share of other instructions
    with an answer that has the pair; 0 where it has no word or there is no other instruction. A
    single word counts as a pair, as small policies collapse to one. Answers to the same instruction
    do not count, as a task may have one right answer.

    >>> repetition(["Name a pet.", "Name a tree."], ["a big dog", "a big oak"])
    [0.5, 0.5]
    >>> repetition(["Name a pet.", "Name a tree."], ["6", "6"])
    [1.0, 1.0]
    >>> repetition(["Name a pet.", "Name a pet."], ["a big dog", "a big dog"])
    [0.0, 0.0]
    """
    pairs = [_word_pairs(text) for text in texts]
    written: dict[str, set[tuple[str, str]]] = {}
    for instruction, own in zip(instructions, pairs, strict=True):
        written.setdefault(instruction, set()).update(own)
    instructions_with = Counter(pair for own in written.values() for pair in own)
    others = len(written) - 1
    # The answer's own instruction is taken off each count.
    return [
        sum(instructions_with[pair] - 1 for pair in own) / (others * len(own))
        if others and own
        else 0.0
        for own in pairs
    ]


def _word_pairs(text: str) -> set[tuple[str, str]]:
    words = text.lower().split()
    return set(pairwise(words)) if len(words) != 1 else {(words[0], "")}


_PARTS = ("reward_model", "understandability", "naturalness", "coherence")
# Preset -> weights of those parts, and the constant.
_PRESETS = {
    "refine_af": (0.0078, -0.4421, 0.3212, 0.1520, -0.0274),
    "coherence_only": (0.0, 0.0, 0.0, 1.0, 0.0),
    "balanced": (0.25, 0.125, 0.125, 0.5, 0.0),
}
PRESETS: dict[str, RewardRule] = {
    name: RewardRule(name, dict(zip(_PARTS, weights, strict=True)), constant)
    for name, (*weights, constant) in _PRESETS.items()
}
