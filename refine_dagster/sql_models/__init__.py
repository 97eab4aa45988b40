"""SQL models: one SELECT in a file of `dbt_like_sql/` becomes a view or a table.

A file has everything about its model: the leading comment is the description, a line
`-- materialized: view` or `table` overrides the folder's default, the comment after a column is
that column's description and may hold checks (`#unique`, `#not_null`, `#accepted{a,b}`). The
relations that it reads, its version, and the origin of every column come from the parsed query.

Names are those of the database: `staging.x` and `marts.x` for models, `x` or `main.x` for the live
rows of a warehouse table, `history.x`, `lineage.x` and `store.x` for other tables. A query can thus
be pasted into any DuckDB client.
"""

from refine_dagster.sql_models.execution import CheckResult, ModelResult, materialize, run_checks
from refine_dagster.sql_models.model import (
    Check,
    Column,
    Origin,
    SqlModel,
    SqlModelError,
    SqlProblem,
)
from refine_dagster.sql_models.reading import MODELS_FOLDER, read_models

__all__ = [
    "MODELS_FOLDER",
    "Check",
    "CheckResult",
    "Column",
    "ModelResult",
    "Origin",
    "SqlModel",
    "SqlModelError",
    "SqlProblem",
    "materialize",
    "read_models",
    "run_checks",
]
