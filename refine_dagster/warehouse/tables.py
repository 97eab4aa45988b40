"""All tables of the warehouse, and which rows of them each asset owns.

A table holds rows with `row_id`, `policy_round` where it has rounds, its payload, and `parents`, a
list of (asset, row_id, role). `warehouse/warehouse.py` stores each as a history table and shows its
live rows as a view of the table's name. An asset commits slices: whole tables, or their rows of one
policy round.

A natural key says which place a row fills: a seed's id, a candidate's slot, an arm and a task. A
row id is a hash of everything behind the row, so a row made from something else has another id;
the old and the new row of one key are two versions of the same thing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from refine_dagster.config.policy_round import PolicyRound, name_sql, rounds_until, split_name
from refine_dagster.warehouse.declarations import DECLARATIONS
from refine_dagster.warehouse.sql import literal

PARENTS_TYPE = "STRUCT(asset VARCHAR, row_id VARCHAR, role VARCHAR)[]"
# The column of numbers by name; its entries are named by their keys and not by the column.
MAP_TYPE = "MAP(VARCHAR, DOUBLE)"
# The column, beside the payload, of tables that have rows of several policy rounds.
POLICY_ROUND = "policy_round"
# The columns of a history table besides the payload.
STRUCTURAL = ("row_id", POLICY_ROUND, "parents", "row_hash", "added_in", "removed_in")
# Files that were exported: recorded by the command that writes them, not by an asset of the graph.
EXPORTS = "exports"


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
        rounds_from: the first policy round that has rows of it; None of a table without rounds.
        optional: columns that a row may lack. Null means absent: neither id nor hash covers it.
        label: SQL for what people know a row by; by default the instruction, or the step.
        calls_model: whether the asset of this name calls a model, and so fills the completions
            store.
        sparse: whether only some configs fill it. While it is empty, it is no part of its asset's
            content: an asset can get such a table, and its data versions stay.
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
    sparse: bool = False

    @property
    def stored(self) -> tuple[str, ...]:
        """The columns of the live view: `row_id`, `policy_round` if any, payload, `parents`."""
        structural = (POLICY_ROUND,) if self.rounds_from else ()
        return ("row_id", *structural, *self.columns, "parents")


def _declared(text: str) -> dict[str, Table]:
    """The tables of a text in the form of `declarations.py`, by name."""
    tables: dict[str, Table] = {}
    for paragraph in text.replace("\n        ", " ").strip().split("\n\n"):
        head, *lines = paragraph.splitlines()
        name, description = head.split(": ", 1)
        columns: dict[str, tuple[str, str]] = {}
        options: dict[str, str] = {}
        for line in lines:
            left, _, right = line.strip().partition(": ")
            column, _, kind = left.partition(" ")
            if kind:
                columns[column] = (kind, right)
            else:
                options[left] = right
        other, _, left_out = options.pop("like", "").partition(" without ")
        if other:
            columns = {
                column: meaning
                for column, meaning in tables[other].columns.items()
                if column not in left_out.split()
            }
        column, _, table = options.pop("owner", "").partition(" ")
        rounds_from = options.pop("rounds_from", None)
        tables[name] = Table(
            name,
            options.pop("asset", name),
            MappingProxyType(columns),
            description,
            key=tuple(options.pop("key", "").split()),
            owner=(column, table) if column else None,
            rounds_from=int(rounds_from) if rounds_from else None,
            optional=tuple(options.pop("optional", "").split()),
            label=options.pop("label", None),
            calls_model=options.pop("calls_model", "false") == "true",
            sparse=options.pop("sparse", "false") == "true",
        )
        assert not options, f"{name} has unknown options {options}"
    return tables


TABLES = MappingProxyType(_declared(DECLARATIONS))
# Payload columns that name a row of another table: they follow that row and say nothing new.
REFERENCES = frozenset({"candidate_id", "nearest_id", "instruction_id"})
# Tables whose rows are models.
MODELS = tuple(name for name, table in TABLES.items() if "checkpoint_hash" in table.columns)


@dataclass(frozen=True)
class Slice:
    """The rows of a table that one asset owns: those of a policy round, or all of them.

    All rows of a table without rounds are of the first.
    """

    table: Table
    policy_round: PolicyRound

    @property
    def name(self) -> str:
        """What row ids, the parents of rows and the ledger call it: `raw_instructions_round_2`."""
        return self.policy_round.name(self.table.name)

    @property
    def asset(self) -> str:
        return self.policy_round.name(self.table.asset)

    @property
    def condition(self) -> str:
        """SQL that is true for its rows in `history`."""
        if self.table.rounds_from is None:
            return "true"
        return f"{POLICY_ROUND} = {self.policy_round.number}"

    @property
    def live(self) -> str:
        """Its live rows, for the FROM clause of a query."""
        name = f"main.{self.table.name}"
        return name if self.table.rounds_from is None else f"(FROM {name} WHERE {self.condition})"


def slice_of(name: str) -> Slice:
    """The slice of a name; KeyError if there is no such table or it has no such round."""
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
    """SQL for the natural key of rows of a table as text, and the JOIN that it needs, if any.

    Args:
        source: the alias that rows of `history.<table>` have in the query.
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
