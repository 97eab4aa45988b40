"""What it took: requests, tokens and seconds, by role and by run."""

from __future__ import annotations

import duckdb

from refine_dagster.report.table import Table, selected


def read_spend(connection: duckdb.DuckDBPyConnection) -> tuple[Table, Table]:
    """Requests by asset and role over all runs, and every run as a whole, the newest first."""
    roles = selected(
        connection,
        "One role of requests to a model, over all runs",
        """
        SELECT asset, role, sum(asked)::BIGINT AS asked, sum(reused)::BIGINT AS "from the store",
               sum(sent)::BIGINT AS sent,
               sum(prompt_tokens) FILTER (sent > 0)::BIGINT AS "prompt tokens",
               sum(completion_tokens) FILTER (sent > 0)::BIGINT AS "tokens written",
               round(sum(seconds), 1) AS "model seconds"
        FROM lineage.requests JOIN (SELECT sequence, asset FROM lineage.materializations)
            USING (sequence)
        GROUP BY ALL ORDER BY min(sequence), role
        """,
    )
    runs = selected(
        connection,
        "One run; seconds of its assets, without what lies between them",
        """
        SELECT left(run_id, 20) AS run, left(min(started_at), 16) AS began,
               count(*) AS materializations, sum(requests_sent)::BIGINT AS "requests sent",
               round(sum(date_diff('millisecond', started_at::TIMESTAMPTZ,
                                   finished_at::TIMESTAMPTZ)) / 1000, 1) AS seconds,
               sum(rows_added)::BIGINT AS "rows added", sum(rows_removed)::BIGINT AS "rows removed"
        FROM lineage.materializations GROUP BY run_id ORDER BY max(sequence) DESC LIMIT 10
        """,
    )
    return roles, runs
