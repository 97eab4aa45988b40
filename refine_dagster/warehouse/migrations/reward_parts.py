"""Migration 4: the columns of the four reward parts become one mapping, `parts`."""

from __future__ import annotations

import duckdb

from refine_dagster.warehouse.rewrites import gather_columns

_TABLES = (
    "reward_scored_instructions",
    "base_scored_instructions",
    "instance_decisions",
    "instruction_dataset",
    "rl_policy_checkpoint_steps",
)
_PARTS = ("naturalness", "coherence", "understandability", "reward_model")


def gather_reward_parts(connection: duckdb.DuckDBPyConnection) -> None:
    """Gather the columns; rows keep their ids."""
    gather_columns(connection, 4, _TABLES, _PARTS, "parts")
