"""How rows descend from a seed: through texts alone, through what a model learnt, or by comparison.

An auditor must tell three ways apart:

- `shown`: some way from the seed to the row goes through texts alone: the seed stood in a prompt,
  what was written was selected, and so on.
- `trained`: every such way goes through a model that learnt from the seed, or from rows that
  descend from it. A model never counts as shown: a prompt of its training is learnt from.
- `compared`: the seed's text was only compared or measured with: it was the nearest text of a
  novelty decision, or what came of it measured a policy's gain.

A row counts as the first of these that holds. Removed rows keep their edges, so the question can
be asked of a seed that is long gone.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb

from refine_dagster.lineage.tables import TABLES

SHOWN, TRAINED, COMPARED = "shown", "trained", "compared"
_LEARNT_ROLES = ("trained_on",)
_COMPARED_ROLES = ("nearest", "measured_on")
# Each row of these tables is a model.
MODELS = tuple(name for name, table in TABLES.items() if "checkpoint_hash" in table.columns)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


# An edge of `lineage.parents` by what it carries: 0 text, 1 what a model learnt, 2 a comparison.
_EDGE_WAY = f"""
    CASE WHEN role IN ({_listed(_COMPARED_ROLES)}) THEN 2
         WHEN role IN ({_listed(_LEARNT_ROLES)}) OR table_name IN ({_listed(MODELS)}) THEN 1
         ELSE 0 END
"""


def descend(
    connection: duckdb.DuckDBPyConnection, table: str, row_ids: Sequence[str], moment: int
) -> None:
    """Make the temporary table `touched`: every row that ever descended from the given ones.

    Its columns: `table_name`, `row_id`, `how` (one of the three), `lived` (whether the row lived
    after materialization `moment`). The given rows themselves are not among them.
    """
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE descended AS "
        "SELECT ?::VARCHAR AS table_name, unnest(?::VARCHAR[])::UUID AS id, 0 AS way, 0 AS step",
        [table, list(row_ids)],
    )
    # What is reached without a harder way than this one; each way goes on from the one before.
    step = 0
    for way in range(3):
        since = 0
        while True:
            step += 1
            added = connection.execute(
                f"""
                INSERT INTO descended
                SELECT DISTINCT table_name, row_id, {way}, {step} FROM lineage.parents
                WHERE {_EDGE_WAY} <= {way}
                  AND parent_id IN (SELECT id FROM descended WHERE step >= {since})
                  AND row_id NOT IN (SELECT id FROM descended)
                """
            ).fetchall()
            if added[0][0] == 0:
                break
            since = step
    names = _listed((SHOWN, TRAINED, COMPARED))
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE touched AS
        SELECT table_name, row_id, any_value([{names}][way + 1]) AS how,
               bool_or(added_in <= ? AND coalesce(removed_in > ?, true)) AS lived
        FROM lineage.rows JOIN (
            SELECT table_name, replace(id::VARCHAR, '-', '') AS row_id, way
            FROM descended WHERE step > 0
        ) USING (table_name, row_id)
        GROUP BY table_name, row_id
        """,
        [moment, moment],
    )
