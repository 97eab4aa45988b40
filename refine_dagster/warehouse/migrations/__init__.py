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
        change: what SQL alone cannot do; comes first.
        sql: statements, which may be none.
    """

    name: str
    change: Callable[[duckdb.DuckDBPyConnection], object] | None = None
    sql: str = ""

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Do it in the open transaction."""
        if self.change is not None:
            self.change(connection)
        if self.sql:
            connection.execute(self.sql)


def _script(name: str) -> str:
    return (files(__package__) / name).read_text(encoding="utf-8")


MIGRATIONS = (
    Migration("0001_initial.sql", sql=_script("0001_initial.sql")),
    Migration("0002_use_digests.sql", sql=_script("0002_use_digests.sql")),
    Migration("0003_policy_rounds.sql", merge_policy_rounds, _script("0003_policy_rounds.sql")),
    Migration("0004_reward_parts", gather_reward_parts),
)
