"""A policy round: the policy that one round trained proposes the instructions of the next.

In the first round the base model proposes and the first policy is trained. With the config field
`rounds` at N, round n of 2 to N goes on from there: the policy of round n - 1 proposes, what is
novel beside the seeds and the former pool joins the pool, and policy n is trained from policy n - 1
on the whole of it. The graph is unrolled, not looped: every round has assets of its own, named
`<asset>_round_n`, those of the first round by the plain name. So it stays acyclic, and content
versions, reuse and retraction hold in every round. The rows of all rounds share tables, in which
the column `policy_round` tells them apart.

Not to be confused with the rounds of the Self-Instruct loop (`self_instruct/rounds.py`): many of
those make up one policy round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Slots sort as text, and rows are decided on in slot order: `r10/` would come before `r2/`.
MOST_ROUNDS = 9

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
        """The name of this round's asset, or of this round's rows of a table.

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


def later_rounds(last: int) -> tuple[PolicyRound, ...]:
    """The rounds 2 to `last`."""
    return rounds_until(last)[1:]


def split_name(name: str) -> tuple[str, PolicyRound]:
    """The name that it has in the first round, and the round: `PolicyRound.name` read back.

    >>> split_name("raw_instructions_round_2")
    ('raw_instructions', PolicyRound(number=2))
    """
    found = _NAMED.fullmatch(name)
    return (found["base"], PolicyRound(int(found["number"]))) if found else (name, FIRST_ROUND)


def name_sql(base: str, policy_round: str) -> str:
    """SQL for `PolicyRound.name`; both arguments are SQL, and the round may be null."""
    return f"({base} || if({policy_round} > 1, '_round_' || {policy_round}, ''))"


def split_sql(name: str) -> tuple[str, str]:
    """SQL for both parts of `split_name`; `name` is SQL."""
    return (
        f"regexp_replace({name}, '_round_\\d+$', '')",
        f"coalesce(TRY_CAST(regexp_extract({name}, '_round_(\\d+)$', 1) AS BIGINT), 1)",
    )
