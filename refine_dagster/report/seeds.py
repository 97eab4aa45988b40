"""What came of each seed: the rows whose prompts showed it, and the seeds that led to nothing.

A seed leads to a row where a chain of texts does: it stood in a prompt, what was written stood in
another, and so on. What a model learnt from a seed does not count: a model learns from all.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from refine_dagster.lineage.impact import EDGE_WAY
from refine_dagster.report.table import Table, selected

LISTED = 25


@dataclass(frozen=True)
class SeedUse:
    """How many seeds there are, how many led to nothing, the first of those, and the most used."""

    seeds: int
    fruitless: int
    without: Table
    most: Table


def read_seed_use(connection: duckdb.DuckDBPyConnection) -> SeedUse:
    _reach(connection)
    # Candidates and answers whose prompt showed the seed itself.
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE seed_uses AS
        WITH shown AS (
            SELECT edge.parent_id, edge.row_id, edge.table_name FROM lineage.parents AS edge
            JOIN (SELECT DISTINCT table_name, row_id::UUID AS row_id FROM lineage.rows
                  WHERE removed_in IS NULL) AS alive USING (table_name, row_id)
            WHERE edge.parent_table = 'seed_tasks'
        )
        SELECT seed.row_id, seed.seed_id, seed.instruction,
               seed.row_id::UUID IN (SELECT id FROM led) AS led,
               count(DISTINCT shown.row_id) FILTER (
                   shown.table_name IN ('raw_instructions', 'evolved_instructions')) AS candidates,
               count(DISTINCT shown.row_id) FILTER (decision.kept) AS accepted,
               count(DISTINCT shown.row_id) FILTER (
                   shown.table_name = 'instruction_dataset') AS answers,
               mode(decision.rule) FILTER (NOT decision.kept) AS mostly
        FROM main.seed_tasks AS seed
        LEFT JOIN shown ON shown.parent_id = seed.row_id::UUID
        LEFT JOIN main.instruction_decisions AS decision
          ON decision.candidate_id = replace(shown.row_id::VARCHAR, '-', '')
         AND shown.table_name IN ('raw_instructions', 'evolved_instructions')
        GROUP BY ALL
        """
    )
    ((seeds, fruitless),) = connection.execute(
        "SELECT count(*), count(*) FILTER (NOT led) FROM seed_uses"
    ).fetchall()
    columns = (
        'seed_id AS seed, instruction, candidates AS "candidates shown it", accepted, '
        'answers AS "answers shown it"'
    )
    return SeedUse(
        seeds,
        fruitless,
        selected(
            connection,
            "One seed that no row of the dataset descends from by its text",
            f'SELECT {columns}, mostly AS "mostly rejected as" FROM seed_uses WHERE NOT led '
            f"ORDER BY candidates DESC, seed_id LIMIT {LISTED}",
        ),
        selected(
            connection,
            "One of the seeds that were accepted after most often",
            f"SELECT {columns} FROM seed_uses WHERE led "
            "ORDER BY accepted DESC, answers DESC, seed_id LIMIT 10",
        ),
    )


def _reach(connection: duckdb.DuckDBPyConnection) -> None:
    """Make temporary table `led`: ids of all that some live row of the dataset descends from."""
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE led AS "
        "SELECT DISTINCT row_id::UUID AS id, 0 AS step FROM main.instruction_dataset"
    )
    step, added = 0, 1
    while added:
        ((added,),) = connection.execute(
            f"""
            INSERT INTO led
            SELECT DISTINCT parent_id, {step + 1} FROM lineage.parents
            WHERE {EDGE_WAY} = 0 AND row_id IN (SELECT id FROM led WHERE step = {step})
              AND parent_id NOT IN (SELECT id FROM led)
            """
        ).fetchall()
        step += 1
