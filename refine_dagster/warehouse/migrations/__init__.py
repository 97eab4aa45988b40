"""The schema's migrations, in order. Each is applied once to a database, in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import duckdb

from refine_dagster.warehouse.migrations.policy_rounds import merge_policy_rounds
from refine_dagster.warehouse.migrations.reward_parts import gather_reward_parts


@dataclass(frozen=True)
class Migration:
    """A step of the schema.

    Attributes:
        name: as recorded in `main.schema_migrations`; begins with its number.
        apply: does it in the open transaction.
    """

    name: str
    apply: Callable[[duckdb.DuckDBPyConnection], object]


def script(name: str) -> str:
    """The text of a file beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _migration(
    name: str, first: Callable[[duckdb.DuckDBPyConnection], object] | None = None
) -> Migration:
    """The script of that name, after what SQL alone cannot do."""

    def apply(connection: duckdb.DuckDBPyConnection) -> None:
        if first is not None:
            first(connection)
        connection.execute(script(name))

    return Migration(name, apply)


MIGRATIONS = (
    _migration("0001_initial.sql"),
    _migration("0002_use_digests.sql"),
    _migration("0003_policy_rounds.sql", merge_policy_rounds),
    Migration("0004_reward_parts", gather_reward_parts),
)
