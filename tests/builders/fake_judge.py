"""Judges that cost nothing, and scores to fill them with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from refine_dagster.judge.judge import PARTS, Part, Scores
from refine_dagster.judge.quality import ALL, JudgeAccuracy
from refine_dagster.prompts.example import Example

PART_NAMES = tuple(part.name for part in PARTS)


def scores_of(
    naturalness: float = 0.5,
    coherence: float = 0.5,
    understandability: float = 0.5,
    reward_model: float = 0.0,
) -> Scores:
    """The scores of an example on the judge's own parts."""
    values = (naturalness, coherence, understandability, reward_model)
    return dict(zip(PART_NAMES, values, strict=True))


class FakeJudge:
    """Scores each example by a function of it; remembers what it was asked."""

    parts: tuple[Part, ...] = PARTS
    fingerprint = "fake"

    def __init__(self, score_one: Callable[[Example], Scores]) -> None:
        self._score_one = score_one
        self.asked: list[list[Example]] = []

    @classmethod
    def of_outputs(cls, table: Mapping[str, Scores]) -> FakeJudge:
        """Scores an example by its output."""
        return cls(lambda example: table[example.output])

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        self.asked.append(list(examples))
        return [self._score_one(example) for example in examples]


def accuracy_of(accuracies: Sequence[JudgeAccuracy], dimension: str, kind: str = ALL) -> float:
    """The accuracy on a dimension and kind of corruption; a test fails where it has none."""
    [found] = [one for one in accuracies if (one.dimension, one.corruption) == (dimension, kind)]
    return found.accuracy
