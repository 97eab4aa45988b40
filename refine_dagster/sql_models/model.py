"""SQL models: one SELECT in a file of `dbt_like_sql/` becomes a view or a table.

A file has everything about its model: the leading comment is the description, a line
`-- materialized: view` or `table` overrides the folder's default, the comment after a column is
that column's description and may hold checks (`#unique`, `#not_null`, `#accepted{a,b}`). The
relations that it reads, its version, and the origin of every column come from the parsed query.

Names are those of the database: `staging.x` and `marts.x` for models, `x` or `main.x` for the live
rows of a warehouse table, `history.x`, `lineage.x` and `store.x` for other tables. A query can thus
be pasted into any DuckDB client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from refine_dagster.errors import RefineError

Layer = Literal["staging", "marts"]
Materialized = Literal["view", "table"]
CheckKind = Literal["unique", "not_null", "accepted"]

LAYERS: dict[Layer, Materialized] = {"staging": "view", "marts": "table"}
DIALECT = "duckdb"


@dataclass(frozen=True, order=True)
class SqlProblem:
    """Something wrong in a model file; `line` counts from 1, `file` is relative to the folder."""

    file: str
    line: int
    message: str


class SqlModelError(RefineError):
    """The SQL models cannot be used; `problems` lists everything that is wrong with them."""

    def __init__(self, problems: Sequence[SqlProblem], *, where: str | None = None) -> None:
        self.problems = tuple(sorted(problems))
        listed = "".join(f"\n  {p.file}:{p.line}: {p.message}" for p in self.problems)
        count = f"{len(problems)} problem{'s' if len(problems) != 1 else ''}"
        super().__init__(
            f"{count} in the SQL models{listed}",
            where=where,
            fix="correct the lines named above and run again",
        )


@dataclass(frozen=True)
class Check:
    """A rule that every value of a column must follow; nulls only concern `not_null`."""

    kind: CheckKind
    column: str
    accepted: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.kind}_{self.column}"


@dataclass(frozen=True, order=True)
class Origin:
    """A stored column that an output column is computed from.

    `asset` makes it; None for the completions store and the ledger.
    """

    relation: str
    column: str
    asset: str | None


@dataclass(frozen=True)
class Column:
    """An output column: its name, what it means, its checks and where its values come from."""

    name: str
    description: str = ""
    checks: tuple[Check, ...] = ()
    origins: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class SqlModel:
    """One file of `dbt_like_sql/`.

    Attributes:
        name: the file's stem: the name of the table or view, and the asset key.
        file: its path relative to the models' folder.
        description: the leading comment; paragraphs are separated by a blank line.
        query: the SELECT as written, without leading comments and trailing semicolon.
        version: sha256 of the parsed query; formatting and comments do not change it.
        reads: relations read, such as `main.seed_tasks` and `staging.stg_parents`, sorted.
        depends_on: keys of the assets that come before, sorted.
        columns: output columns in order.
    """

    name: str
    layer: Layer
    materialized: Materialized
    file: str
    description: str
    query: str
    version: str
    reads: tuple[str, ...]
    depends_on: tuple[str, ...]
    columns: tuple[Column, ...]

    @property
    def relation(self) -> str:
        return f"{self.layer}.{self.name}"

    @property
    def checks(self) -> tuple[Check, ...]:
        return tuple(check for column in self.columns for check in column.checks)
