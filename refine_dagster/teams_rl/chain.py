"""Chains of evolutions, in lock-step: the one place where an operation is applied and judged.

The training environment, the generation of a dataset and the benchmark all step chains through
`Evolver`, so that what a policy has learnt on is what it is used for. A step of many chains sends
one batch to the executor, and one to the reviewer for what the rules have left undecided.

A rewrite that is eliminated, or judged equal, is never built upon: the chain stays at its parent.
(The authors' chain goes on from whatever came back, stale or broken.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from refine_dagster.generation.request import Request
from refine_dagster.teams_rl.elimination import Rewrite, first_verdict
from refine_dagster.teams_rl.operations import COUNT, OPERATIONS


@dataclass(frozen=True)
class Chain:
    """One instruction on its way.

    Attributes:
        seed_id: the seed it began at.
        episode: number of the episode; with the step it names all noise.
        text: the instruction now.
        operations: places in `OPERATIONS` of what was applied so far, kept or not.
    """

    seed_id: str
    episode: int
    text: str
    operations: tuple[int, ...] = ()

    @property
    def step(self) -> int:
        """Operations applied so far."""
        return len(self.operations)

    def counts(self) -> tuple[int, ...]:
        """How often each operation was applied."""
        return tuple(self.operations.count(place) for place in range(COUNT))


@dataclass(frozen=True)
class Execution:
    """What an executor wrote; `request` is what was asked, None where no model was."""

    text: str
    finished: bool = True
    request: Request | None = None


class Executor(Protocol):
    """Applies operations to texts."""

    def execute(self, chains: Sequence[Chain], operations: Sequence[int]) -> list[Execution]:
        """Apply `operations[i]` (a place in `OPERATIONS`) to `chains[i]`, all in one batch."""


@dataclass(frozen=True)
class Review:
    """Whether a rewrite differs from its parent.

    Attributes:
        different: the verdict.
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
        operation: place in `OPERATIONS`.
        text: what the executor wrote.
        rule: the rule that eliminated it, `equal` for the reviewer's verdict; None where kept.
        execution, review: how it came about; no review where a rule eliminated it.
        value, threshold: what the rule measured and what it compared that with; None where it
            measures nothing.
    """

    before: Chain
    operation: int
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

    def step(self, chains: Sequence[Chain], operations: Sequence[int]) -> list[Outcome]:
        """One operation on each chain.

        Raises:
            ValueError: the numbers of chains and operations differ.
        """
        if len(chains) != len(operations):
            raise ValueError(f"{len(chains)} chains and {len(operations)} operations")
        executions = self.executor.execute(chains, operations)
        rewrites = [
            Rewrite(chain.text, execution.text, OPERATIONS[operation], execution.finished)
            for chain, operation, execution in zip(chains, operations, executions, strict=True)
        ]
        verdicts = [first_verdict(rewrite, self.max_words) for rewrite in rewrites]
        asked = [place for place, verdict in enumerate(verdicts) if verdict is None]
        reviews = dict(
            zip(asked, self.reviewer.review([rewrites[place] for place in asked]), strict=True)
        )
        outcomes = []
        for place, verdict in enumerate(verdicts):
            review = reviews.get(place)
            rule = verdict.rule if verdict else None
            if review is not None and not review.different:
                rule = "equal"
            outcomes.append(
                Outcome(
                    before=chains[place],
                    operation=int(operations[place]),
                    text=rewrites[place].text,
                    rule=rule,
                    execution=executions[place],
                    review=review,
                    value=verdict.value if verdict else None,
                    threshold=verdict.threshold if verdict else None,
                )
            )
        return outcomes
