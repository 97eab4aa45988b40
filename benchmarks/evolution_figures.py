"""What a policy made of the same seeds with the same number of executor calls, in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import LCSseq

from refine_dagster.evaluation.diversity import Embedding, vendi_of_kernel, vendi_score
from refine_dagster.novelty.rouge import rouge_l, rouge_tokens
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import Interval, percentile_interval
from refine_dagster.teams_rl.chain import Outcome
from refine_dagster.teams_rl.operations import NAMES


def unique_bigrams(texts: Sequence[str]) -> int:
    """The number of different pairs of neighbouring words; words as ROUGE-L sees them."""
    return len({pair for text in texts for pair in pairwise(rouge_tokens(text))})


def rouge_l_to(text: str, parent: str) -> float:
    """ROUGE-L F of a text and its parent, 0 to 1, without a stemmer."""
    ours, theirs = rouge_tokens(text), rouge_tokens(parent)
    return rouge_l(LCSseq.similarity(ours, theirs), len(ours), len(theirs))


@dataclass(frozen=True)
class PolicyFigures:
    """One policy's evolution in figures.

    Attributes:
        executor_calls: steps taken.
        calls: of executor and reviewer together.
        training_calls: what the policy's training cost.
        kept, valid_rate: rows kept, and their share of steps.
        vendi: Vendi score of the kept texts.
        bigrams: different word pairs in them.
        rouge_l_to_parent: mean ROUGE-L F of kept texts and their parents; None where none was kept.
        shares: share of each operation, in the order of `NAMES`.
    """

    executor_calls: int
    calls: int
    training_calls: int
    kept: int
    valid_rate: float
    vendi: float
    bigrams: int
    rouge_l_to_parent: float | None
    shares: tuple[float, ...]

    @property
    def calls_per_row(self) -> float | None:
        return self.calls / self.kept if self.kept else None

    @property
    def calls_per_row_with_training(self) -> float | None:
        return (self.calls + self.training_calls) / self.kept if self.kept else None


def policy_figures(
    steps: Sequence[Outcome], embedding: Embedding, training_calls: int = 0
) -> PolicyFigures:
    """Figures of an evolution of at least one step."""
    kept = [step for step in steps if step.kept]
    texts = [step.text for step in kept]
    counts = Counter(step.operation for step in steps)
    return PolicyFigures(
        executor_calls=len(steps),
        calls=sum(step.calls for step in steps),
        training_calls=training_calls,
        kept=len(kept),
        valid_rate=len(kept) / len(steps),
        vendi=vendi_score(embedding.embed(texts)),
        bigrams=unique_bigrams(texts),
        rouge_l_to_parent=fmean(rouge_l_to(step.text, step.parent) for step in kept)
        if kept
        else None,
        shares=tuple(counts[name] / len(steps) for name in NAMES),
    )


@dataclass(frozen=True)
class Gains:
    """How far a policy is ahead of another over several runs: means and 95 % intervals."""

    vendi: float
    vendi_interval: Interval
    valid_rate: float
    valid_rate_interval: Interval


def gains(
    ours: Sequence[Sequence[Outcome]],
    theirs: Sequence[Sequence[Outcome]],
    embedding: Embedding,
    *,
    samples: int,
    run_seed: str,
) -> Gains:
    """Compare two policies over paired runs on the same seeds.

    The bootstrap has two levels: runs are drawn with replacement, and in each drawn run its seeds,
    the same ones for both policies. A seed that is drawn twice adds no variety, and lowers the
    Vendi score of the more varied dataset more; so the resamples give the interval's width around
    their own mean, and it is put around the difference that was measured.

    Args:
        ours, theirs: one evolution a run, of the same seeds.
        samples: resamples.
        run seed: seeds them.
    """
    pairs = [
        (_Run.of(one, embedding), _Run.of(two, embedding))
        for one, two in zip(ours, theirs, strict=True)
    ]
    if any(one.seeds != two.seeds for one, two in pairs):
        raise ValueError("paired runs have the same seeds")
    whole = [_difference(one, two, np.ones(len(one.seeds))) for one, two in pairs]
    random = np.random.default_rng(request_seed(run_seed, "gains"))
    drawn = []
    for _ in range(samples):
        sampled = []
        for place in random.integers(0, len(pairs), len(pairs)):
            one, two = pairs[place]
            count = len(one.seeds)
            weights = np.bincount(random.integers(0, count, count), minlength=count)
            sampled.append(_difference(one, two, weights.astype(float)))
        drawn.append(np.mean(sampled, axis=0))
    measured = np.mean(whole, axis=0)
    spread = np.array(drawn) - np.mean(drawn, axis=0)
    reach = [percentile_interval(column) for column in spread.T]
    around = [
        Interval(*(value + np.array(one)).tolist())
        for value, one in zip(measured, reach, strict=True)
    ]
    vendi, valid = measured
    return Gains(
        vendi=float(vendi),
        vendi_interval=around[0],
        valid_rate=float(valid),
        valid_rate_interval=around[1],
    )


@dataclass(frozen=True)
class _Run:
    """A run by seed: how many steps and kept rows each has, and the kept rows' vectors."""

    seeds: list[str]
    steps: NDArray[np.float64]
    kept: NDArray[np.float64]
    vectors: NDArray[np.float64]
    owners: NDArray[np.int64]

    @classmethod
    def of(cls, steps: Sequence[Outcome], embedding: Embedding) -> _Run:
        seeds = sorted({step.seed_id for step in steps})
        place = {seed: number for number, seed in enumerate(seeds)}
        rows = [step for step in steps if step.kept]
        owners = np.array([place[step.seed_id] for step in rows], dtype=np.int64)
        return cls(
            seeds,
            _counts([place[step.seed_id] for step in steps], len(seeds)),
            _counts(owners, len(seeds)),
            embedding.embed([step.text for step in rows]).astype(np.float64),
            owners,
        )

    def figures(self, weights: NDArray[np.float64]) -> tuple[float, float]:
        """Vendi score and valid rate with so many copies of each seed."""
        copies = weights[self.owners]
        total = copies.sum()
        if total == 0:
            return 0.0, 0.0
        kernel = (self.vectors * copies[:, None]).T @ self.vectors / total
        return vendi_of_kernel(kernel), float(
            (weights * self.kept).sum() / (weights * self.steps).sum()
        )


def _counts(places: Sequence[int] | NDArray[np.int64], size: int) -> NDArray[np.float64]:
    return np.bincount(places, minlength=size).astype(np.float64)


def _difference(one: _Run, two: _Run, weights: NDArray[np.float64]) -> tuple[float, float]:
    ours, theirs = one.figures(weights), two.figures(weights)
    return ours[0] - theirs[0], ours[1] - theirs[1]
