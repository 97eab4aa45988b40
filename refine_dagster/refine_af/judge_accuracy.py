"""How well a judge tells good triples from corrupted ones, by dimension and kind of corruption."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.refine_af.corruptions import DIMENSIONS, KINDS, Corruptor, Dimension
from refine_dagster.refine_af.instance_prompt import Triple
from refine_dagster.refine_af.judge import Judge

ALL = "all"
CHANCE = 0.5


@dataclass(frozen=True)
class JudgeAccuracy:
    """Held-out accuracy on one dimension and kind of corruption (columns of the table).

    Attributes:
        dimension: a dimension, or `reward_model`.
        corruption: a kind of corruption that harms the dimension, or `all`.
        examples: triples (pairs for `reward_model`) measured.
        accuracy: balanced accuracy at a probability of one half; for `reward_model` the share of
            pairs whose good triple has the higher reward, a tie counting one half.
        chance: what guessing would score.
    """

    dimension: str
    corruption: str
    examples: int
    accuracy: float
    chance: float


def judge_accuracies(
    judge: Judge, sources: Sequence[Triple], salt: str
) -> tuple[list[JudgeAccuracy], int]:
    """Accuracies on the sources and one corruption of each kind of each, and how many triples."""
    corruptor = Corruptor(sources)
    made = [(source, corruptor.corruptions(source, f"{salt}/held_out")) for source in sources]
    triples = [
        triple for source, worse in made for triple in (source, *(one.triple for one in worse))
    ]
    scores = iter(judge.score(triples))
    right: dict[tuple[str, str, bool], list[float]] = defaultdict(list)
    for _, worse in made:
        whole = next(scores)
        for dimension in DIMENSIONS:
            passed = float(getattr(whole, dimension) > CHANCE)
            for kind in (ALL, *(name for name in KINDS if dimension in KINDS[name].harms)):
                right[dimension, kind, True].append(passed)
        for one in worse:
            found = next(scores)
            order = _order(whole.reward_model, found.reward_model)
            right["reward_model", ALL, False].append(order)
            right["reward_model", one.kind, False].append(order)
            for dimension in DIMENSIONS:
                label = one.label(dimension)
                if label is None:
                    continue
                correct = float((getattr(found, dimension) > CHANCE) == label)
                right[dimension, ALL, label].append(correct)
                if not label:
                    right[dimension, one.kind, False].append(correct)
    return _accuracies(right), len(triples)


def _order(better: float, worse: float) -> float:
    return 0.5 if better == worse else float(better > worse)


def _accuracies(right: dict[tuple[str, str, bool], list[float]]) -> list[JudgeAccuracy]:
    accuracies = []
    for dimension in (*DIMENSIONS, "reward_model"):
        for kind in (ALL, *KINDS):
            harmed = right.get((dimension, kind, False), [])
            whole = right.get((dimension, kind, True), [])
            if not harmed:
                continue
            shares = [sum(side) / len(side) for side in (harmed, whole) if side]
            accuracies.append(
                JudgeAccuracy(
                    dimension,
                    kind,
                    len(harmed) + len(whole),
                    round(sum(shares) / len(shares), 6),
                    CHANCE,
                )
            )
    return accuracies


def accuracy_of(
    accuracies: Sequence[JudgeAccuracy], dimension: Dimension | str, kind: str = ALL
) -> float:
    """The accuracy on a dimension and kind.

    Raises:
        KeyError: nothing of the kind was measured.
    """
    for one in accuracies:
        if (one.dimension, one.corruption) == (dimension, kind):
            return one.accuracy
    raise KeyError((dimension, kind))
