"""How many instructions a run was to accept, how many it did, and why it stopped before."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

# Why proposing ended, in words (`self_instruct.rounds.Proposals.ended_by`).
ENDED_BY = {
    "target": "the target was reached",
    "stall": "too few new ones came for some rounds (self_instruct.stall_rounds)",
    "max_rounds": "the last round was done (self_instruct.max_rounds)",
}


@dataclass(frozen=True)
class Target:
    """What came of `self_instruct.target` in one policy round; `asset` proposed in it."""

    asset: str
    target: int
    accepted: int
    ended_by: str

    @property
    def is_reached(self) -> bool:
        return self.accepted >= self.target

    @property
    def label(self) -> str:
        """
        >>> Target("raw_instructions", 300, 212, "stall").label[:47]
        '212 of the 300 instructions asked for were acce'
        """
        reason = ENDED_BY.get(self.ended_by, self.ended_by)
        return (
            f"{self.accepted:,} of the {self.target:,} instructions asked for were accepted: "
            f"{reason}"
        )


def read_targets(connection: duckdb.DuckDBPyConnection) -> list[Target]:
    """The target of each policy round, as the ledger has it of the last materialization."""
    rows = connection.execute(
        """
        SELECT asset, (config::JSON -> 'self_instruct' ->> 'target')::BIGINT AS target,
               (metrics::JSON ->> 'accepted')::BIGINT, metrics::JSON ->> 'ended_by'
        FROM lineage.materializations JOIN lineage.configs USING (config_hash)
        WHERE regexp_full_match(asset, 'raw_instructions(_round_[0-9]+)?')
          AND metrics::JSON ->> 'ended_by' IS NOT NULL AND target IS NOT NULL
        QUALIFY row_number() OVER (PARTITION BY asset ORDER BY sequence DESC) = 1
        ORDER BY asset
        """
    ).fetchall()
    return [Target(*row) for row in rows]
