"""The schema's migrations, in order. Each is applied once to a database, in one transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files

import duckdb

from refine_dagster.warehouse.migrations.policy_rounds import merge_policy_rounds


@dataclass(frozen=True)
class Migration:
    """A step of the schema.

    Attributes:
        name: as recorded in `main.schema_migrations`; begins with its number.
        apply: does it in the open transaction.
    """

    name: str
    apply: Callable[[duckdb.DuckDBPyConnection], object]


def _script(name: str) -> Migration:
    sql = (files(__package__) / name).read_text(encoding="utf-8")
    return Migration(name, lambda connection: connection.execute(sql))


MIGRATIONS = (
    _script("0001_initial.sql"),
    _script("0002_use_digests.sql"),
    Migration("0003_policy_rounds", merge_policy_rounds),
)
