"""The tables that SQL models may read besides each other, and who makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import sqlglot
from sqlglot import exp

from refine_dagster.lineage.tables import GRAPH_ASSETS, PARENTS_TYPE, TABLES
from refine_dagster.sql_models.model import DIALECT

# `store.completions` is filled by whatever calls a model, so a model over it comes after these.
MODEL_CALLERS = (
    "evaluation_report",
    "instruction_dataset",
    "raw_instructions",
    "reward_scored_instructions",
    "rl_policy_checkpoint",
)


@dataclass(frozen=True)
class Relation:
    """A stored table or a model, as the queries see it.

    `columns` maps a name to (DuckDB type, meaning); `assets` come before whatever reads it.
    """

    columns: Mapping[str, tuple[str, str]]
    assets: tuple[str, ...]
    maker: str | None


@cache
def stored_relations() -> Mapping[str, Relation]:
    """The tables that are no models: live rows, their history, the ledger and the store."""
    parents = (PARENTS_TYPE, "Rows that this one was made from, each with its role.")
    found: dict[str, Relation] = {}
    for table in TABLES.values():
        columns = {"row_id": ("VARCHAR", "The row's id."), **table.columns, "parents": parents}
        makers = (table.asset,) if table.asset in GRAPH_ASSETS else ()
        found[f"main.{table.name}"] = Relation(columns, makers, table.asset)
        kept = {
            **columns,
            "row_hash": ("VARCHAR", "sha256 of the row."),
            "added_in": ("BIGINT", "Sequence of the materialization that added the row."),
            "removed_in": ("BIGINT", "Sequence of the one that removed it; null while it lives."),
        }
        found[f"history.{table.name}"] = Relation(kept, makers, table.asset)
    for path in files("refine_dagster.lineage.migrations").iterdir():
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
            assets = MODEL_CALLERS if table_name.db == "store" else GRAPH_ASSETS
            found[f"{table_name.db}.{table_name.name}"] = Relation(defined, assets, None)
    return found
