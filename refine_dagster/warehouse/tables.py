"""All tables of the warehouse, and which rows of them each asset owns.

A table holds rows with `row_id`, `policy_round` where it has rounds, its payload, and `parents`, a
list of (asset, row_id, role). `warehouse/warehouse.py` stores each as a history table and shows its
live rows as a view of the table's name. An asset commits slices: whole tables, or their rows of one
policy round.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

from refine_dagster.config.policy_round import PolicyRound, name_sql, rounds_until, split_name
from refine_dagster.warehouse.pipeline_tables import PIPELINE_TABLES
from refine_dagster.warehouse.result_tables import EXPORTS, RESULT_TABLES
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.table import POLICY_ROUND, Table

TABLES: MappingProxyType[str, Table] = MappingProxyType(
    {table.name: table for table in (*PIPELINE_TABLES, *RESULT_TABLES)}
)
# Payload columns that name a row of another table: they follow that row and say nothing new.
REFERENCES = frozenset({"candidate_id", "nearest_id", "instruction_id"})
# Tables whose rows are models.
MODELS = tuple(name for name, table in TABLES.items() if "checkpoint_hash" in table.columns)


@dataclass(frozen=True)
class Slice:
    """The rows of a table that one asset owns: those of a policy round, or all of them.

    Attributes:
        table: the table.
        policy_round: the round; the first for a table without rounds.
    """

    table: Table
    policy_round: PolicyRound

    @property
    def name(self) -> str:
        """What row ids, the parents of rows and the ledger call it: `raw_instructions_round_2`."""
        return self.policy_round.name(self.table.name)

    @property
    def asset(self) -> str:
        """The asset that commits it."""
        return self.policy_round.name(self.table.asset)

    @property
    def condition(self) -> str:
        """SQL that is true for its rows."""
        if self.table.rounds_from is None:
            return "true"
        return f"{POLICY_ROUND} = {self.policy_round.number}"

    @property
    def live(self) -> str:
        """Its live rows, for the FROM clause of a query."""
        name = f"main.{self.table.name}"
        return name if self.table.rounds_from is None else f"(FROM {name} WHERE {self.condition})"


def slice_of(name: str) -> Slice:
    """The slice of a name.

    Raises:
        KeyError: there is no such table, or it has no rows of that round.
    """
    base, policy_round = split_name(name)
    table = TABLES[base]
    if not _has(table, policy_round):
        raise KeyError(name)
    return Slice(table, policy_round)


def tables_of(asset: str) -> list[Slice]:
    """What an asset commits: the slice of its own name first; empty for what is no such asset."""
    base, policy_round = split_name(asset)
    return sorted(
        (
            Slice(table, policy_round)
            for table in TABLES.values()
            if table.asset == base and _has(table, policy_round)
        ),
        key=lambda owned: owned.name != asset,
    )


def base_instances(policy_round: PolicyRound) -> Slice:
    """The base policy's instances of a round's pool. The first round begins with that policy."""
    first = policy_round.is_first
    return slice_of(
        policy_round.name("reward_scored_instructions" if first else "base_scored_instructions")
    )


def graph_assets(rounds: int = 1) -> tuple[str, ...]:
    """The assets of a graph of so many policy rounds that commit tables, sorted."""
    assets = {
        Slice(table, policy_round).asset
        for table in TABLES.values()
        for policy_round in rounds_until(rounds)
        if table.name != EXPORTS and _has(table, policy_round)
    }
    return tuple(sorted(assets))


def is_beyond(asset: str, rounds: int) -> bool:
    """Whether an asset belongs to a policy round that a graph of so many does not have."""
    return split_name(asset)[1].number > rounds and bool(tables_of(asset))


def _has(table: Table, policy_round: PolicyRound) -> bool:
    if table.rounds_from is None:
        return policy_round.is_first
    return policy_round.number >= table.rounds_from


def asset_sql(table: Table, source: str = "") -> str:
    """SQL for the asset that a row of a table belongs to; `source` is a prefix such as `old.`."""
    if table.rounds_from is None:
        return literal(table.asset)
    return name_sql(literal(table.asset), f"{source}{POLICY_ROUND}")


def round_sql(table: Table) -> str:
    """SQL for the policy round of a row of a table; 1 for one without rounds."""
    return "1" if table.rounds_from is None else POLICY_ROUND


def key_sql(table: str, source: str) -> tuple[str, str]:
    """SQL for the natural key of rows of a table, as text.

    Args:
        table: the rows' table.
        source: the alias that rows of `history.<table>` have in the query.

    Returns:
        The expression, and the JOIN that it needs; empty where it needs none.
    """
    declared = TABLES[table]
    parts = [
        # The first round goes without saying.
        f"if({source}.{column} > 1, 'round ' || {source}.{column}, NULL)"
        if column == POLICY_ROUND
        else f"{source}.{column}"
        for column in declared.key
    ]
    if declared.owner is None:
        return (f"concat_ws(' ', {', '.join(parts)})" if parts else "''"), ""
    column, owner = declared.owner
    # The pool of a later round takes rows over: what is theirs is called the same in every round.
    named = ", ".join(f"named.{column}" for column in TABLES[owner].key if column != POLICY_ROUND)
    parts.append(f"coalesce(owner.key, {source}.{column})")
    return f"concat_ws(' ', {', '.join(parts)})", (
        f"LEFT JOIN (SELECT named.row_id, any_value(concat_ws(' ', {named})) AS key "
        f"FROM history.{owner} AS named GROUP BY named.row_id) AS owner "
        f"ON owner.row_id = {source}.{column}"
    )
