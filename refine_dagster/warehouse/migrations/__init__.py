"""The schema's migrations, in order. Each is applied once to a database, in one transaction."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import duckdb

from refine_dagster.warehouse.rewrites import drop_models_of, gather_columns

_LATER = re.compile(r"(?P<base>\w+)_round_(?P<number>\d+)")
_SCORED = (
    "reward_scored_instructions",
    "base_scored_instructions",
    "instance_decisions",
    "instruction_dataset",
    "rl_policy_checkpoint_steps",
)
_PARTS = ("naturalness", "coherence", "understandability", "reward_model")


@dataclass(frozen=True)
class Migration:
    """A step of the schema.

    Attributes:
        name: as recorded in `main.schema_migrations`; begins with its number.
        change: what SQL alone cannot do; comes first.
        sql: statements, which may be none.
    """

    name: str
    change: Callable[[duckdb.DuckDBPyConnection], object] | None = None
    sql: str = ""

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self.change is not None:
            self.change(connection)
        if self.sql:
            connection.execute(self.sql)


def _merge_policy_rounds(connection: duckdb.DuckDBPyConnection) -> None:
    """Merge the tables `<table>_round_n` of later policy rounds into those of the first.

    A column `policy_round` says which round a row is of. Row ids, row hashes, content hashes and
    data versions stay: a slice has the name of its old table.
    """
    tables = _history_tables(connection)
    later = sorted(
        (int(match["number"]), match["base"])
        for match in map(_LATER.fullmatch, tables)
        if match is not None
    )
    drop_models_of(connection, 3, {f"history.{base}_round_{number}" for number, base in later})
    connection.execute("DROP SCHEMA IF EXISTS rounds CASCADE")
    for base in dict.fromkeys(base for _, base in later):
        if base in tables:
            _add_round(connection, base, 1)
    merged = set(tables)
    for number, base in later:
        name = f"{base}_round_{number}"
        connection.execute(f"DROP VIEW main.{name}")
        if base not in merged:
            connection.execute(f"ALTER TABLE history.{name} RENAME TO {base}")
            _add_round(connection, base, number)
            merged.add(base)
            continue
        for column, kind in _columns(connection, name):
            connection.execute(
                f"ALTER TABLE history.{base} ADD COLUMN IF NOT EXISTS {column} {kind}"
            )
        connection.execute(
            f"INSERT INTO history.{base} BY NAME "
            f"SELECT *, {number} AS policy_round FROM history.{name}"
        )
        connection.execute(f"DROP TABLE history.{name}")


def _history_tables(connection: duckdb.DuckDBPyConnection) -> list[str]:
    found = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = current_database() "
        "AND schema_name = 'history' ORDER BY 1"
    ).fetchall()
    return [name for (name,) in found]


def _columns(connection: duckdb.DuckDBPyConnection, table: str) -> list[tuple[str, str]]:
    return connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns() "
        "WHERE database_name = current_database() AND schema_name = 'history' AND table_name = ?",
        [table],
    ).fetchall()


def _add_round(connection: duckdb.DuckDBPyConnection, table: str, number: int) -> None:
    connection.execute(
        f"ALTER TABLE history.{table} ADD COLUMN policy_round BIGINT DEFAULT {number}"
    )
    connection.execute(f"ALTER TABLE history.{table} ALTER COLUMN policy_round DROP DEFAULT")
    connection.execute(f"ALTER TABLE history.{table} ALTER COLUMN policy_round SET NOT NULL")


def _gather_reward_parts(connection: duckdb.DuckDBPyConnection) -> None:
    """Gather the columns of the four reward parts in one mapping; rows keep their ids."""
    gather_columns(connection, 4, _SCORED, _PARTS, "parts")


def _script(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


MIGRATIONS = (
    Migration("0001_initial.sql", sql=_script("0001_initial.sql")),
    Migration("0002_use_digests.sql", sql=_script("0002_use_digests.sql")),
    Migration("0003_policy_rounds.sql", _merge_policy_rounds, _script("0003_policy_rounds.sql")),
    Migration("0004_reward_parts", _gather_reward_parts),
    Migration("0005_servers.sql", sql=_script("0005_servers.sql")),
    Migration("0006_trainings.sql", sql=_script("0006_trainings.sql")),
)
