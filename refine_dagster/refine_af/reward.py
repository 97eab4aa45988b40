"""The reward rule: the judge's four parts weighed into one number, by a named preset.

`refine_af` is the published rule, InstructMining's (arXiv 2307.06290) with its sign turned
(methods A, stage 2):

    R = 0.0078 Rew - 0.4421 Und + 0.3212 Nat + 0.1520 Coh - 0.0274

InstructMining fitted those numbers to the *loss of a model* trained on a dataset, from the means of
a few hundred datasets, where naturalness and understandability are nearly one number. A regression
may give two such columns any pair of opposite weights, so long as their sum is right: here about
-0.12. Used as a reward for single texts, the rule then pays for whatever drives the two apart, and
takes reward away from text that is both natural and understandable. It is kept as published,
because a comparison with the paper needs it, and it is the reason for the two presets beside it.

`coherence_only` is the ablation: the one part that looks at the task. Of the published judge's
parts it agrees best with people on overall quality (0.50, methods A), and it cannot be earned with
fluent text that answers something else. What it leaves out, it cannot protect: a policy may let its
wording decay for as long as the answer is recognised.

`balanced` is this project's own, made of three considerations instead of a fit:

1. *Every part has the sign of its meaning.* Nothing is paid for being harder to understand. A wrong
   sign is worse than a bad weight: a policy finds it within a few dozen steps.
2. *A question counts once, however many parts answer it.* Three are asked: does the output answer
   the task (coherence), would it be preferred (the Bradley-Terry reward), does it read well
   (naturalness and understandability). The two parts of the last agree with each other more than
   any others, so they share one weight between them.
3. *The answer weighs as much as all the rest.* Of the three, only the first asks for what the
   dataset is for, so it has one half, and the other two questions one quarter each.

The weights of `balanced` speak of parts in standard deviations, as `reward.whiten` gives them. On
raw parts the Bradley-Terry reward has no bounds and outweighs three probabilities.

The raw parts are stored beside every reward, so any rule can be applied afterwards without asking
the judge again, and an ablation is one config field.

A rule may also have a *diversity term*, off by default, for rollouts alone: see `repetition`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from statistics import fmean, pstdev
from typing import Any

from refine_dagster.judge.judge import Scores

# A part that does not vary over the base policy's scores (its deviation is rounding) cannot be
# standardised; it is only centred.
LEAST_DEVIATION = 1e-6


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation (of the population) of one part."""

    mean: float
    deviation: float

    def standardised(self, value: float) -> float:
        """`value` in deviations from the mean; only centred where the part does not vary."""
        centred = value - self.mean
        return centred / self.deviation if self.deviation > LEAST_DEVIATION else centred


# Part -> its moments over the base policy's scores.
Whitening = Mapping[str, Moments]


def fit_whitening(scores: Sequence[Scores]) -> Whitening:
    """Mean and deviation of each part over `scores`.

    Raises:
        ValueError: there are no scores.
    """
    if not scores:
        raise ValueError("there are no scores to fit the whitening on")
    columns = {part: [one[part] for one in scores] for part in scores[0]}
    return {part: Moments(fmean(values), pstdev(values)) for part, values in columns.items()}


@dataclass(frozen=True)
class RewardRule:
    """A linear rule over reward parts.

    With a whitening, the parts are standardised first and the constant is added as it stands, so an
    example of average parts has the constant as its reward.

    Attributes:
        name: the preset's name.
        weights: part -> weight, in the order in which the products are added.
        constant: added to the weighed parts.
        whitening: None weighs the raw parts, as published.
        diversity: taken off a rollout's reward times its `repetition`; 0 or more. Rows of a
            dataset are not charged: the reward of a row must not depend on the others.
    """

    name: str
    weights: Mapping[str, float]
    constant: float
    whitening: Whitening | None = None
    diversity: float = 0.0

    def reward(self, scores: Scores) -> float:
        """The reward of an example with these scores."""
        # Not `sum`, which compensates rounding from Python 3.12 on: a reward is part of a row's id.
        total = 0.0
        for part, weight in self.weights.items():
            value = scores[part]
            if self.whitening:
                value = self.whitening[part].standardised(value)
            total += weight * value
        return total + self.constant

    def whitened(self, scores: Sequence[Scores]) -> RewardRule:
        """This rule with the parts standardised over `scores` (the base policy's).

        Raises:
            ValueError: there are no scores.
        """
        return replace(self, whitening=fit_whitening(scores))

    def manifest(self) -> dict[str, Any]:
        """The rule as JSON values, for the manifests of checkpoints."""
        moments = {part: asdict(one) for part, one in (self.whitening or {}).items()}
        return {
            **self.weights,
            "name": self.name,
            "constant": self.constant,
            "whitening": moments or None,
            "diversity": self.diversity,
        }


def repetition(instructions: Sequence[str], texts: Sequence[str]) -> list[float]:
    """How much of each answer is given to the other instructions of its step too, 0 to 1.

    A policy collapses when it learns one text that the judge likes and gives it as the answer to
    everything. So an answer's different pairs of neighbouring words are looked up in the answers
    to the *other* instructions: its repetition is the mean, over its pairs, of the share of other
    instructions for which the pair was written. A single word stands for a pair, since it is what
    a small policy collapses to. Answers to the same instruction do not count: where a task has one
    right answer, agreeing on it is no collapse.

    Args:
        instructions: the instruction of each answer; equal texts are one instruction.
        texts: the answers, in the same order.

    Returns:
        One number an answer; 0 where it has no word or there is no other instruction.

    Raises:
        ValueError: the two differ in length.

    >>> repetition(["Name a pet.", "Name a tree."], ["a big dog", "a big oak"])
    [0.5, 0.5]
    >>> repetition(["Name a pet.", "Name a tree."], ["6", "6"])
    [1.0, 1.0]
    >>> repetition(["Name a pet.", "Name a pet."], ["a big dog", "a big dog"])
    [0.0, 0.0]
    """
    pairs = [_word_pairs(text) for text in texts]
    written: dict[str, set[tuple[str, str]]] = {}
    for instruction, found in zip(instructions, pairs, strict=True):
        written.setdefault(instruction, set()).update(found)
    instructions_with = Counter(pair for found in written.values() for pair in found)
    others = len(written) - 1
    # Every pair of an answer is one of its own instruction's, which is taken off the count.
    return [
        sum(instructions_with[pair] - 1 for pair in found) / (others * len(found))
        if others and found
        else 0.0
        for found in pairs
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
