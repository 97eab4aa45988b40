"""A table's declaration: its columns with their DuckDB types and meaning, and its natural key.

A natural key says which place a row fills: a seed's id, a candidate's slot, an arm and a task. A
row id is a hash of everything behind the row, so a row made from something else has another id;
the old and the new row of one key are two versions of the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

PARENTS_TYPE = "STRUCT(asset VARCHAR, row_id VARCHAR, role VARCHAR)[]"
# The column of numbers by name; its entries are named by their keys and not by the column.
MAP_TYPE = "MAP(VARCHAR, DOUBLE)"
# The column, beside the payload, of tables that have rows of several policy rounds.
POLICY_ROUND = "policy_round"
# The columns of a history table besides the payload.
STRUCTURAL = ("row_id", POLICY_ROUND, "parents", "row_hash", "added_in", "removed_in")


@dataclass(frozen=True, eq=False)
class Table:
    """A table's declaration.

    Attributes:
        name: the live view's name.
        asset: the asset that commits it; of a table with rounds, that of the first one.
        columns: payload column -> (DuckDB type, meaning).
        description: what one row is.
        key: columns of the natural key in the order in which they are shown, `policy_round` where
            rows of several rounds share the others; empty for a table of one row.
        owner: (payload column with a row id, the table of that row): the natural key of that row
            comes first, because the id itself changes with every version.
        rounds_from: the first policy round that has rows of it, in the column `policy_round`; None
            of a table that has no rounds.
        optional: columns that a row may lack. Null means absent: neither id nor hash covers it.
        label: SQL for what people know a row by; by default the instruction, or the step.
        calls_model: whether the asset of this name calls a model, and so fills the completions
            store.
    """

    name: str
    asset: str
    columns: Mapping[str, tuple[str, str]]
    description: str
    key: tuple[str, ...] = ()
    owner: tuple[str, str] | None = None
    rounds_from: int | None = None
    optional: tuple[str, ...] = ()
    label: str | None = None
    calls_model: bool = False

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of the live view: `row_id`, `policy_round` if any, payload, `parents`."""
        structural = (POLICY_ROUND,) if self.rounds_from else ()
        return ("row_id", *structural, *self.columns, "parents")


def declare(
    name: str,
    description: str,
    columns: Mapping[str, tuple[str, str]],
    *,
    asset: str | None = None,
    key: Sequence[str] = (),
    owner: tuple[str, str] | None = None,
    rounds_from: int | None = None,
    optional: Sequence[str] = (),
    label: str | None = None,
    calls_model: bool = False,
) -> Table:
    """A table, by default of the asset of the same name."""
    return Table(
        name,
        asset or name,
        MappingProxyType(dict(columns)),
        description,
        tuple(key),
        owner,
        rounds_from,
        tuple(optional),
        label,
        calls_model,
    )
