"""Chains of evolutions, in lock-step: the one place where an operation is applied and judged.

The training environment, the generation of a dataset and the benchmark all step chains through
`Evolver`, so that what a policy has learnt on is what it is used for. A step of many chains sends
one batch to the executor, and one to the reviewer for what the rules have left undecided.

A rewrite that is eliminated, or judged equal, is never built upon: the chain stays at its parent.
(The authors' chain goes on from whatever came back, stale or broken.)

Which seed an episode begins at: pass after pass over all seeds, each pass in its own order.

What the instructor sees of a chain.

`paper` shows the last operation alone, one-hot (all zeros at first): the policy never sees the text
and cannot know where an operation would fail. `rich` shows the text's embedding, how often each
operation was applied and the share of the episode that is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.generation.request import Request
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.elimination import Rewrite, first_rejection
from refine_dagster.teams_rl.embedding import Embedding
from refine_dagster.teams_rl.operations import (
    EPISODE_LENGTH,
    NAMES,
    Operation,
    one_line,
    operation_named,
)


@dataclass(frozen=True)
class Chain:
    """One instruction on its way.

    Attributes:
        seed_id: the seed it began at.
        episode: number of the episode; with the step it names all noise.
        text: the instruction now.
        operations: names of what was applied so far, kept or not.
    """

    seed_id: str
    episode: int
    text: str
    operations: tuple[str, ...] = ()

    @property
    def step(self) -> int:
        """Operations applied so far."""
        return len(self.operations)


@dataclass(frozen=True)
class Execution:
    """What an executor wrote; `request` is what was asked, None where no model was."""

    text: str
    finished: bool = True
    request: Request | None = None


class Executor(Protocol):
    """Applies operations to texts."""

    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        """Apply `operations[i]` to `chains[i]`, all in one batch."""


@dataclass(frozen=True)
class Review:
    """Whether a rewrite differs from its parent.

    Attributes:
        different: the rejection.
        probability: how sure a model was that they differ; None where none was asked.
        requests: what was asked of a model.
    """

    different: bool
    probability: float | None = None
    requests: tuple[Request, ...] = ()


class Reviewer(Protocol):
    """Compares rewrites with their parents."""

    def review(self, rewrites: Sequence[Rewrite]) -> list[Review]:
        """Reviews of rewrites that no rule has eliminated, in order, in one batch."""


@dataclass(frozen=True)
class Outcome:
    """One step of one chain: a row of the evolution.

    Attributes:
        before: the chain that the operation was applied to; its text is the parent.
        operation: its name.
        text: what the executor wrote.
        rule: the rule that eliminated it, `equal` for the reviewer's rejection; None where kept.
        execution, review: how it came about; no review where a rule eliminated it.
        value, threshold: what the rule measured and what it compared that with; None where it
            measures nothing.
    """

    before: Chain
    operation: str
    text: str
    rule: str | None
    execution: Execution
    review: Review | None
    value: float | None = None
    threshold: float | None = None

    @property
    def kept(self) -> bool:
        return self.rule is None

    @property
    def calls(self) -> int:
        """Calls that this step cost: one to the executor, and the reviewer's."""
        return 1 + (len(self.review.requests) if self.review else 0)

    def after(self) -> Chain:
        """The chain after this step."""
        text = self.text if self.kept else self.before.text
        return replace(self.before, text=text, operations=(*self.before.operations, self.operation))


@dataclass(frozen=True)
class Evolver:
    """Applies operations to chains and judges what comes back.

    Attributes:
        executor, reviewer: who writes and who compares.
        max_words: longest instruction that is kept.
    """

    executor: Executor
    reviewer: Reviewer
    max_words: int = 60

    def step(self, chains: Sequence[Chain], operations: Sequence[str]) -> list[Outcome]:
        """One operation, by its name, on each chain.

        Raises:
            ValueError: the numbers of chains and operations differ.
        """
        if len(chains) != len(operations):
            raise ValueError(f"{len(chains)} chains and {len(operations)} operations")
        applied = [operation_named(name) for name in operations]
        executions = self.executor.execute(chains, applied)
        rewrites = [
            Rewrite(chain.text, execution.text, operation, execution.finished)
            for chain, operation, execution in zip(chains, applied, executions, strict=True)
        ]
        rejections = [first_rejection(rewrite, self.max_words) for rewrite in rewrites]
        asked = [place for place, rejection in enumerate(rejections) if rejection is None]
        reviews = dict(
            zip(asked, self.reviewer.review([rewrites[place] for place in asked]), strict=True)
        )
        outcomes = []
        for place, rejection in enumerate(rejections):
            review = reviews.get(place)
            rule = rejection.rule if rejection else None
            if review is not None and not review.different:
                rule = "equal"
            outcomes.append(
                Outcome(
                    before=chains[place],
                    operation=operations[place],
                    text=rewrites[place].text,
                    rule=rule,
                    execution=executions[place],
                    review=review,
                    value=rejection.value if rejection else None,
                    threshold=rejection.threshold if rejection else None,
                )
            )
        return outcomes


@dataclass(frozen=True)
class Seed:
    """An instruction to begin at."""

    seed_id: str
    text: str


class Episodes:
    """An endless sequence of chains at their first step; any of them is found by its number.

    Args:
        seeds: at least one; their order does not matter.
        run seed: names the order of every pass.

    Raises:
        ValueError: there are no seeds.
    """

    def __init__(self, seeds: Sequence[Seed], run_seed: str) -> None:
        if not seeds:
            raise ValueError("an episode begins at a seed, and there is none")
        self._seeds = list(seeds)
        self._run_seed = run_seed
        self._turn = -1
        self._order: list[Seed] = []

    def chain(self, number: int) -> Chain:
        """Episode `number`, from 0."""
        turn, place = divmod(number, len(self._seeds))
        if turn != self._turn:
            self._turn = turn
            self._order = sorted(
                self._seeds,
                key=lambda seed: (
                    request_seed(self._run_seed, "episodes", turn, seed.seed_id),
                    seed.text,
                ),
            )
        seed = self._order[place]
        return Chain(seed.seed_id, number, one_line(seed.text))


ObservationMode = Literal["paper", "rich"]


def observation_size(
    mode: ObservationMode, embedding: Embedding, operations: int = len(NAMES)
) -> int:
    """Length of an observation of so many operations; every number of it lies in [-1, 1]."""
    return operations if mode == "paper" else embedding.dimensions + operations + 1


def observe(
    chains: Sequence[Chain],
    mode: ObservationMode,
    embedding: Embedding,
    operations: Sequence[str] = NAMES,
) -> NDArray[np.float32]:
    """Observations, shape (chains, `observation_size`).

    Args:
        operations: names of those that may be chosen, in order.
    """
    size = observation_size(mode, embedding, len(operations))
    seen = np.zeros((len(chains), size), dtype=np.float32)
    if mode == "paper":
        for row, chain in enumerate(chains):
            if chain.operations:
                seen[row, operations.index(chain.operations[-1])] = 1.0
        return seen
    width = embedding.dimensions
    seen[:, :width] = embedding.embed([chain.text for chain in chains])
    for row, chain in enumerate(chains):
        counts = np.array([chain.operations.count(name) for name in operations])
        seen[row, width : width + len(operations)] = np.minimum(1.0, counts / EPISODE_LENGTH)
        seen[row, -1] = min(1.0, chain.step / EPISODE_LENGTH)
    return np.clip(seen, -1.0, 1.0)
