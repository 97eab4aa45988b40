"""A policy round: the policy that one round trained proposes the instructions of the next.

In the first round the base model proposes. In round n the policy of round n - 1 does, what is novel
beside the seeds and the former pool joins the pool, and policy n is trained from policy n - 1 on
all of it. Each round has assets of its own, `<asset>_round_n`, so the graph has no cycle. The rows
of all rounds share tables with a column `policy_round`.
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
        return self.number == 1

    @property
    def before(self) -> PolicyRound:
        """The round whose policy proposes in this one; ValueError in the first round."""
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
        """The run seed of this round's draws and noise."""
        return run_seed if self.is_first else f"{run_seed}, round {self.number}"

    def slot(self, slot: str) -> str:
        """A candidate's slot, unlike those of all other rounds and sorted behind former ones.

        >>> PolicyRound(2).slot("0000/0017/000")
        'r2/0000/0017/000'
        """
        return slot if self.is_first else f"r{self.number}/{slot}"


FIRST_ROUND = PolicyRound(1)


def rounds_until(last: int) -> tuple[PolicyRound, ...]:
    return tuple(PolicyRound(number) for number in range(1, last + 1))


def later_rounds(last: int) -> tuple[PolicyRound, ...]:
    return rounds_until(last)[1:]


def split_name(name: str) -> tuple[str, PolicyRound]:
    """The name that it has in the first round, and the round: `PolicyRound.name` read back.

    >>> split_name("raw_instructions_round_2")
    ('raw_instructions', PolicyRound(number=2))
    """
    match = _NAMED.fullmatch(name)
    return (match["base"], PolicyRound(int(match["number"]))) if match else (name, FIRST_ROUND)


def name_sql(base: str, policy_round: str) -> str:
    """SQL for `PolicyRound.name`; both arguments are SQL, and the round may be null."""
    return f"({base} || if({policy_round} > 1, '_round_' || {policy_round}, ''))"


def split_sql(name: str) -> tuple[str, str]:
    """SQL for both parts of `split_name`; `name` is SQL."""
    return (
        f"regexp_replace({name}, '_round_\\d+$', '')",
        f"coalesce(TRY_CAST(regexp_extract({name}, '_round_(\\d+)$', 1) AS BIGINT), 1)",
    )
