"""The reward rule: the judge's four parts weighed into one number.

REFINE-AF's rule is InstructMining's (arXiv 2307.06290) with its sign turned (methods A, stage 2).
Its two large terms nearly cancel where naturalness and understandability agree, so the raw parts
are always stored beside the reward, the parts can be whitened before they are weighed, and
coefficients are named presets, so that an ablation is one knob.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean, pstdev

from refine_dagster.refine_af.judge import Scores

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


@dataclass(frozen=True)
class Whitening:
    """Mean and deviation of each part over the base policy's scores."""

    reward_model: Moments
    understandability: Moments
    naturalness: Moments
    coherence: Moments

    @classmethod
    def fit(cls, scores: Sequence[Scores]) -> Whitening:
        """Fit on given scores.

        Raises:
            ValueError: there are none.
        """
        if not scores:
            raise ValueError("there are no scores to fit the whitening on")

        def moments(values: list[float]) -> Moments:
            return Moments(fmean(values), pstdev(values))

        return cls(
            reward_model=moments([one.reward_model for one in scores]),
            understandability=moments([one.understandability for one in scores]),
            naturalness=moments([one.naturalness for one in scores]),
            coherence=moments([one.coherence for one in scores]),
        )

    def apply(self, scores: Scores) -> Scores:
        """Each part in deviations from its mean; no part is a probability any more."""
        return Scores(
            naturalness=self.naturalness.standardised(scores.naturalness),
            coherence=self.coherence.standardised(scores.coherence),
            understandability=self.understandability.standardised(scores.understandability),
            reward_model=self.reward_model.standardised(scores.reward_model),
        )


@dataclass(frozen=True)
class RewardRule:
    """A linear rule over the judge's parts.

    With a whitening, the parts are standardised first and the constant is added as it stands: it
    shifts every reward alike, and keeps a whitened reward of average parts equal to the constant.

    Attributes:
        name: the preset's name.
        reward_model, understandability, naturalness, coherence: weight of each part.
        constant: added to the weighed parts.
        whitening: None weighs the raw parts, as published.
    """

    name: str
    reward_model: float
    understandability: float
    naturalness: float
    coherence: float
    constant: float
    whitening: Whitening | None = None

    def reward(self, scores: Scores) -> float:
        """The reward of a triple with these scores."""
        parts = self.whitening.apply(scores) if self.whitening else scores
        return (
            self.reward_model * parts.reward_model
            + self.understandability * parts.understandability
            + self.naturalness * parts.naturalness
            + self.coherence * parts.coherence
            + self.constant
        )

    def whitened(self, scores: Sequence[Scores]) -> RewardRule:
        """This rule with the parts standardised over `scores` (the base policy's).

        Raises:
            ValueError: there are no scores.
        """
        return replace(self, whitening=Whitening.fit(scores))


PRESETS: dict[str, RewardRule] = {
    "refine_af": RewardRule(
        "refine_af",
        reward_model=0.0078,
        understandability=-0.4421,
        naturalness=0.3212,
        coherence=0.1520,
        constant=-0.0274,
    )
}
