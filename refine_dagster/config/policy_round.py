"""A policy round: the policy that one round trained proposes the instructions of the next.

In the first round the base model proposes and the first policy is trained. With the config field
`rounds` at N, round n of 2 to N goes on from there: the policy of round n - 1 proposes, what is
novel beside the seeds and the former pool joins the pool, and policy n is trained from policy n - 1
on the whole of it. The graph is unrolled, not looped: every round has assets and tables of its own,
named `<asset>_round_n`, those of the first round by the plain name. So it stays acyclic, and
everything that holds of an asset (content versions, reuse, retraction) holds of every round without
being said again.

Not to be confused with the rounds of the Self-Instruct loop (`self_instruct/rounds.py`): many of
those make up one policy round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Rounds for which the warehouse has tables.
MOST_ROUNDS = 3

_NAMED = re.compile(r"(?P<base>\w+)_round_(?P<number>\d+)")


@dataclass(frozen=True, order=True)
class PolicyRound:
    """One round, from 1."""

    number: int

    @property
    def is_first(self) -> bool:
        """Whether the base model proposes."""
        return self.number == 1

    @property
    def before(self) -> PolicyRound:
        """The round whose policy proposes in this one.

        Raises:
            ValueError: in the first round the base model does.
        """
        if self.is_first:
            raise ValueError("no round comes before the first")
        return PolicyRound(self.number - 1)

    def name(self, base: str) -> str:
        """The name of this round's asset or table.

        >>> PolicyRound(1).name("raw_instructions"), PolicyRound(2).name("raw_instructions")
        ('raw_instructions', 'raw_instructions_round_2')
        """
        return base if self.is_first else f"{base}_round_{self.number}"

    def run_seed(self, run_seed: str) -> str:
        """The run seed of this round's draws and noise; that of the first round is the run's."""
        return run_seed if self.is_first else f"{run_seed}, round {self.number}"

    def slot(self, slot: str) -> str:
        """A candidate's slot, unlike those of all other rounds and sorted behind former ones.

        >>> PolicyRound(2).slot("0000/0017/000")
        'r2/0000/0017/000'
        """
        return slot if self.is_first else f"r{self.number}/{slot}"


FIRST_ROUND = PolicyRound(1)


def rounds_until(last: int) -> tuple[PolicyRound, ...]:
    """The rounds 1 to `last`."""
    return tuple(PolicyRound(number) for number in range(1, last + 1))


def later_rounds(last: int = MOST_ROUNDS) -> tuple[PolicyRound, ...]:
    """The rounds 2 to `last`."""
    return rounds_until(last)[1:]


def base_name(name: str) -> str:
    """The name that an asset or table has in the first round.

    >>> base_name("raw_instructions_round_2"), base_name("seed_tasks")
    ('raw_instructions', 'seed_tasks')
    """
    found = _NAMED.fullmatch(name)
    return found["base"] if found else name


def round_of(name: str) -> PolicyRound:
    """The round of an asset or table; assets that have no rounds count as the first."""
    found = _NAMED.fullmatch(name)
    return PolicyRound(int(found["number"])) if found else FIRST_ROUND
