"""What a dataset cost in model calls, by role, with and without the instructor's training.

A claim about cheap data is a claim about calls per kept row. Rows name the calls that they asked
for and the instructor's row has those of its training; the mart `query_ledger` counts them by role
(execute, review, respond) and finds each in the completions store.

The paper's headline figure, that its method needs 5.73 % of WizardLM's queries, worked out:

    WizardLM:   52,000 instructions x 4 rounds x 3 calls (evolve, check, answer) = 624,000 calls
    TeaMs-RL:   17,878 instructions x 2 calls (evolve, answer)                   =  35,756 calls
    ratio:      35,756 / 624,000                                                 =   5.730 %

The datasets differ in size. WizardLM kept 250,000 instructions, so per kept row it made 2.50 calls
against 2.00 for TeaMs-RL: 80 % instead of 5.73 %, before the 2,400 calls of TeaMs-RL's training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CallsPerRow:
    """Calls asked for, and per kept row; None per row where none was kept."""

    kept: int
    with_training: int
    without_training: int

    @property
    def per_row_with_training(self) -> float | None:
        return self.with_training / self.kept if self.kept else None

    @property
    def per_row_without_training(self) -> float | None:
        return self.without_training / self.kept if self.kept else None


@dataclass(frozen=True)
class PublishedCalls:
    """A published dataset's calls.

    Attributes:
        instructions: evolved per round, or in all.
        rounds: of evolution.
        calls: for each instruction and round.
        kept: rows of the dataset.
    """

    instructions: int
    rounds: int
    calls: int
    kept: int

    @property
    def total(self) -> int:
        return self.instructions * self.rounds * self.calls

    @property
    def per_row(self) -> float:
        return self.total / self.kept


WIZARDLM = PublishedCalls(instructions=52_000, rounds=4, calls=3, kept=250_000)
TEAMS_RL = PublishedCalls(instructions=17_878, rounds=1, calls=2, kept=17_878)
# 200 updates of 6 steps, each an execution and a review.
TEAMS_RL_TRAINING_CALLS = 200 * 6 * 2
