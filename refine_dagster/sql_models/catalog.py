"""The relations that SQL models may read, and the assets that make them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import sqlglot
from sqlglot import exp
from sqlglot.schema import MappingSchema

from refine_dagster.sql_models.model import DIALECT
from refine_dagster.warehouse.migrations import MIGRATIONS
from refine_dagster.warehouse.tables import (
    PARENTS_TYPE,
    POLICY_ROUND,
    TABLES,
    graph_assets,
    slice_of,
    tables_of,
)

_COMMON = {
    "row_id": ("VARCHAR", "The row's id."),
    POLICY_ROUND: ("BIGINT", "Policy round that the row was made in, from 1."),
    "parents": (PARENTS_TYPE, "Rows that this one was made from, each with its role."),
}
_KEPT = {
    "row_hash": ("VARCHAR", "sha256 of the row."),
    "added_in": ("BIGINT", "Sequence of the materialization that added the row."),
    "removed_in": ("BIGINT", "Sequence of the one that removed it; null while it lives."),
}


@dataclass(frozen=True)
class Relation:
    """A stored table or a model, as the queries see it.

    Attributes:
        columns: name -> (DuckDB type, meaning).
        assets: the assets that come before a model that reads it.
        makers: the assets whose rows it holds; None for the ledger and the completions store.
    """

    columns: Mapping[str, tuple[str, str]]
    assets: tuple[str, ...]
    makers: tuple[str | None, ...]


class Catalog:
    """The relations that queries may read, in this project's form and in sqlglot's."""

    def __init__(self, relations: Mapping[str, Relation]) -> None:
        self.relations: dict[str, Relation] = {}
        self.schema = MappingSchema(dialect=DIALECT)
        for name, relation in relations.items():
            self.add(name, relation)

    def add(self, name: str, relation: Relation) -> None:
        """Add a stored table, or a model whose columns are known."""
        self.relations[name] = relation
        schema_name, table_name = name.split(".")
        types = {column: kind for column, (kind, _) in relation.columns.items()}
        self.schema.add_table(exp.table_(table_name, db=schema_name), types)


@cache
def stored_relations(rounds: int = 1) -> Mapping[str, Relation]:
    """The tables that are no models: live rows, their history, the ledger and the store.

    Args:
        rounds: policy rounds of the graph.
    """
    graph = graph_assets(rounds)
    found: dict[str, Relation] = {}
    for table in TABLES.values():
        every = tuple(
            asset for asset in graph if any(owned.table is table for owned in tables_of(asset))
        )
        makers = every or (table.asset,)
        live = {name: _COMMON.get(name) or table.columns[name] for name in table.stored}
        found[f"main.{table.name}"] = Relation(live, every, makers)
        found[f"history.{table.name}"] = Relation({**live, **_KEPT}, every, makers)
    # A model over the completions store comes after all that fills it, in every policy round.
    callers = tuple(asset for asset in graph if slice_of(asset).table.calls_model)
    for relation, columns in _fixed_tables().items():
        assets = callers if relation.startswith("store.") else graph
        found[relation] = Relation(columns, assets, (None,))
    return found


def _fixed_tables() -> dict[str, dict[str, tuple[str, str]]]:
    """Tables of the ledger and of the store -> their columns, as the migrations make them."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for migration in MIGRATIONS:
        for statement in sqlglot.parse(migration.sql, read=DIALECT):
            if not isinstance(statement, exp.Create) or statement.kind != "TABLE":
                continue
            name = statement.this.this
            found[f"{name.db}.{name.name}"] = {
                column.name: (column.kind.sql(dialect=DIALECT), "")
                for column in statement.this.find_all(exp.ColumnDef)
                if column.parent is statement.this and column.kind
            }
    return found
