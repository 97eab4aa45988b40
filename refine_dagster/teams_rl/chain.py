"""Chains of evolutions: `Evolver` applies operations and judges the rewrites.

Training, the evolution of a dataset and the benchmark all step chains through `Evolver`. A step of
many chains sends one batch to the executor, and one to the reviewer for what the rules leave
undecided. A rewrite that is rejected is never built upon: the chain stays at its parent. (The
authors' chain continues from whatever came back.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.evaluation.diversity import Embedding
from refine_dagster.generation.request import Request
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.elimination import Rewrite, first_rejection
from refine_dagster.teams_rl.operations import (
    EPISODE_LENGTH,
    NAMES,
    Operation,
    one_line,
    operation_named,
)


@dataclass(frozen=True)
class Chain:
    """An instruction under evolution, from the seed `seed_id`."""

    seed_id: str
    episode: int  # all random numbers depend on it and on the step
    text: str
    operations: tuple[str, ...] = ()  # so far, whether or not their rewrites were kept

    @property
    def step(self) -> int:
        return len(self.operations)


@dataclass(frozen=True)
class Execution:
    """An executor's text; `request` is None where no model was asked.

    `refused` is True where no server would answer.
    """

    text: str
    finished: bool = True
    request: Request | None = None
    refused: bool = False


class Executor(Protocol):
    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        """Apply `operations[i]` to `chains[i]`, all in one batch."""


@dataclass(frozen=True)
class Review:
    """Whether a rewrite differs from its parent, and how likely a model finds it, if asked.

    `refused` is True where no server would answer.
    """

    different: bool
    probability: float | None = None
    requests: tuple[Request, ...] = ()
    refused: bool = False


class Reviewer(Protocol):
    def review(self, rewrites: Sequence[Rewrite]) -> list[Review]:
        """Review rewrites that no rule has eliminated, in one batch."""


@dataclass(frozen=True)
class Outcome:
    """One step of one chain."""

    before: Chain  # its text is the parent
    operation: str
    text: str  # the rewrite
    rule: str | None  # `equal` and `unreviewed` are the reviewer's; None where it was kept
    execution: Execution
    review: Review | None
    value: float | None = None  # the rule's measurement
    threshold: float | None = None

    @property
    def kept(self) -> bool:
        return self.rule is None

    @property
    def seed_id(self) -> str:
        return self.before.seed_id

    @property
    def step(self) -> int:
        """The number of the step, from 1."""
        return self.before.step + 1

    @property
    def parent(self) -> str:
        return self.before.text

    @property
    def calls(self) -> int:
        return 1 + (len(self.review.requests) if self.review else 0)

    def after(self) -> Chain:
        text = self.text if self.kept else self.before.text
        return replace(self.before, text=text, operations=(*self.before.operations, self.operation))


@dataclass(frozen=True)
class Evolver:
    """Applies operations to chains and judges the rewrites; none above `max_words` is kept."""

    executor: Executor
    reviewer: Reviewer
    max_words: int = 60

    def step(self, chains: Sequence[Chain], operations: Sequence[str]) -> list[Outcome]:
        """One operation, by its name, on each chain."""
        if len(chains) != len(operations):
            raise ValueError(f"{len(chains)} chains and {len(operations)} operations")
        applied = [operation_named(name) for name in operations]
        executions = self.executor.execute(chains, applied)
        rewrites = [
            Rewrite(chain.text, execution.text, operation, execution.finished, execution.refused)
            for chain, operation, execution in zip(chains, applied, executions, strict=True)
        ]
        rejections = [first_rejection(rewrite, self.max_words) for rewrite in rewrites]
        undecided = [index for index, rejection in enumerate(rejections) if rejection is None]
        reviewed = self.reviewer.review([rewrites[index] for index in undecided])
        reviews = dict(zip(undecided, reviewed, strict=True))
        outcomes = []
        for index, rejection in enumerate(rejections):
            review = reviews.get(index)
            rule = rejection.rule if rejection else None
            if review is not None and not review.different:
                rule = "unreviewed" if review.refused else "equal"
            outcomes.append(
                Outcome(
                    before=chains[index],
                    operation=operations[index],
                    text=rewrites[index].text,
                    rule=rule,
                    execution=executions[index],
                    review=review,
                    value=rejection.value if rejection else None,
                    threshold=rejection.threshold if rejection else None,
                )
            )
        return outcomes


@dataclass(frozen=True)
class Seed:
    """The first instruction of a chain."""

    seed_id: str
    text: str


class Episodes:
    """An endless sequence of chains at their first step, by number.

    It passes over all seeds again and again, each time in another order that depends on the run
    seed, not on the order of `seeds`.
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
        turn, index = divmod(number, len(self._seeds))
        if turn != self._turn:
            self._turn = turn
            name = (self._run_seed, "episodes", turn)
            self._order = sorted(
                self._seeds, key=lambda seed: (request_seed(*name, seed.seed_id), seed.text)
            )
        seed = self._order[index]
        return Chain(seed.seed_id, number, one_line(seed.text))


ObservationMode = Literal["paper", "rich"]
"""`paper`: the last operation, one-hot (all zeros at first), without the text. `rich`: the text's
embedding, how often each operation was applied, and the share of the episode that is over."""


def observation_size(
    mode: ObservationMode, embedding: Embedding, operations: int = len(NAMES)
) -> int:
    """The length of an observation; its numbers lie in [-1, 1]."""
    return operations if mode == "paper" else embedding.dimensions + operations + 1


def observe(
    chains: Sequence[Chain],
    mode: ObservationMode,
    embedding: Embedding,
    operations: Sequence[str] = NAMES,
) -> NDArray[np.float32]:
    """Observations, shape (chains, `observation_size`)."""
    shape = len(chains), observation_size(mode, embedding, len(operations))
    observations = np.zeros(shape, dtype=np.float32)
    if mode == "paper":
        for row, chain in zip(observations, chains, strict=True):
            if chain.operations:
                row[operations.index(chain.operations[-1])] = 1.0
        return observations
    width = embedding.dimensions
    observations[:, :width] = embedding.embed([chain.text for chain in chains])
    for row, chain in zip(observations, chains, strict=True):
        counts = np.array([chain.operations.count(name) for name in operations])
        row[width:-1] = np.minimum(1.0, counts / EPISODE_LENGTH)
        row[-1] = min(1.0, chain.step / EPISODE_LENGTH)
    return np.clip(observations, -1.0, 1.0)
