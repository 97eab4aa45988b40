"""The tables that SQL models may read besides each other, and who makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

import sqlglot
from sqlglot import exp

from refine_dagster.config.policy_round import base_name
from refine_dagster.sql_models.model import DIALECT
from refine_dagster.warehouse.round_views import round_views
from refine_dagster.warehouse.tables import PARENTS_TYPE, TABLES, graph_assets

# `store.completions` is filled by whatever calls a model, so a model over it comes after these, in
# every policy round.
MODEL_CALLERS = (
    "evaluation_report",
    "evolved_instructions",
    "instruction_dataset",
    "instructor_policy",
    "raw_instructions",
    "reward_scored_instructions",
    "rl_policy_checkpoint",
)


@dataclass(frozen=True)
class Relation:
    """A stored table or a model, as the queries see it.

    `columns` maps a name to (DuckDB type, meaning); `assets` come before whatever reads it. A view
    over the tables of several policy rounds has no maker and `stands_for` them: relation -> maker.
    """

    columns: Mapping[str, tuple[str, str]]
    assets: tuple[str, ...]
    maker: str | None
    stands_for: Mapping[str, str] = field(default_factory=dict)


@cache
def stored_relations(rounds: int = 1) -> Mapping[str, Relation]:
    """The tables that are no models: live rows, their history, the ledger and the store.

    Args:
        rounds: policy rounds of the graph, whose assets alone can come before anything.
    """
    graph = graph_assets(rounds)
    callers = tuple(asset for asset in graph if base_name(asset) in MODEL_CALLERS)
    parents = (PARENTS_TYPE, "Rows that this one was made from, each with its role.")
    found: dict[str, Relation] = {}
    for table in TABLES.values():
        columns = {"row_id": ("VARCHAR", "The row's id."), **table.columns, "parents": parents}
        makers = (table.asset,) if table.asset in graph else ()
        found[f"main.{table.name}"] = Relation(columns, makers, table.asset)
        kept = {
            **columns,
            "row_hash": ("VARCHAR", "sha256 of the row."),
            "added_in": ("BIGINT", "Sequence of the materialization that added the row."),
            "removed_in": ("BIGINT", "Sequence of the one that removed it; null while it lives."),
        }
        found[f"history.{table.name}"] = Relation(kept, makers, table.asset)
    for view in round_views():
        made = {f"main.{table}": TABLES[table].asset for table in view.tables.values()}
        of_graph = {relation: asset for relation, asset in made.items() if asset in graph}
        found[view.relation] = Relation(view.columns, tuple(of_graph.values()), None, of_graph)
    for path in files("refine_dagster.warehouse.migrations").iterdir():
        if not path.name.endswith(".sql"):
            continue
        for statement in sqlglot.parse(path.read_text(encoding="utf-8"), read=DIALECT):
            if not isinstance(statement, exp.Create) or statement.kind != "TABLE":
                continue
            table_name = statement.this.this
            defined = {
                column.name: (column.kind.sql(dialect=DIALECT), "")
                for column in statement.this.find_all(exp.ColumnDef)
                if column.parent is statement.this and column.kind
            }
            assets = callers if table_name.db == "store" else graph
            found[f"{table_name.db}.{table_name.name}"] = Relation(defined, assets, None)
    return found
