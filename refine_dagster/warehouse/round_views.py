"""Views `rounds.<table>`: the live rows of all policy rounds' tables of one kind, side by side.

Whoever asks about candidates or policies as such, as the SQL models and the summary do, reads one
relation, whatever the number of rounds; `policy_round` says in which table a row stands. All rounds
that the warehouse has tables for are in it: tables of rounds that are not run are empty.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refine_dagster.config.policy_round import MOST_ROUNDS, PolicyRound, rounds_until
from refine_dagster.warehouse.tables import (
    LATER_COLUMNS,
    PARENTS_TYPE,
    ROUND_TABLES,
    TABLES,
    round_table,
)

SCHEMA = "rounds"
POLICY_ROUND = "policy_round"


@dataclass(frozen=True)
class RoundView:
    """One view.

    Attributes:
        name: of the view in the schema `rounds`.
        columns: column -> (DuckDB type, meaning), in order.
        tables: the round of each table -> its name.
    """

    name: str
    columns: Mapping[str, tuple[str, str]]
    tables: Mapping[PolicyRound, str]

    @property
    def relation(self) -> str:
        return f"{SCHEMA}.{self.name}"

    @property
    def sql(self) -> str:
        """The statement that makes it."""
        return f"CREATE OR REPLACE VIEW {self.relation} AS " + " UNION ALL ".join(
            f"SELECT {', '.join(self._column(name, one) for name in self.columns)} "
            f"FROM main.{table}"
            for one, table in self.tables.items()
        )

    def _column(self, name: str, policy_round: PolicyRound) -> str:
        if name == POLICY_ROUND:
            return f"CAST({policy_round.number} AS BIGINT) AS {name}"
        further = LATER_COLUMNS.get(self.name, {})
        if policy_round.is_first and name in further:
            kind, _, first = further[name]
            return f"CAST({first} AS {kind}) AS {name}"
        return name


def round_views() -> tuple[RoundView, ...]:
    """A view for each kind of table that every policy round has."""
    views = []
    for base, first in ROUND_TABLES.items():
        further = LATER_COLUMNS.get(base, {})
        columns = {
            "row_id": ("VARCHAR", "The row's id."),
            **TABLES[first].columns,
            **{name: (kind, meaning) for name, (kind, meaning, _) in further.items()},
            "parents": (PARENTS_TYPE, "Rows that this one was made from, each with its role."),
            POLICY_ROUND: ("BIGINT", "Policy round in whose table the row stands, from 1."),
        }
        tables = {one: round_table(base, one) for one in rounds_until(MOST_ROUNDS)}
        views.append(RoundView(base, columns, tables))
    return tuple(views)
