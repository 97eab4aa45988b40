"""The ledger: what every materialization says of itself, chained by digest.

Rows of `lineage.materializations`, `lineage.inputs`, `lineage.requests` and `lineage.checkpoints`
are only ever added, in the transaction that changes the data they speak of
(`lineage/warehouse.py`). Each row's digest covers the row, its inputs and the digest before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb

from refine_dagster.lineage.checkpoints import Checkpoint
from refine_dagster.lineage.content import canonical_json

GENESIS = "0" * 64


@dataclass(frozen=True)
class RoleUsage:
    """Requests of one role in one materialization; `seconds` are those of the requests sent."""

    asked: int = 0
    reused: int = 0
    sent: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    seconds: float = 0.0

    def plus(
        self, *, sent: bool, prompt_tokens: int, completion_tokens: int, seconds: float
    ) -> RoleUsage:
        """The count after one more request, sent to the backend or answered from the store."""
        return RoleUsage(
            asked=self.asked + 1,
            reused=self.reused + (not sent),
            sent=self.sent + sent,
            prompt_tokens=self.prompt_tokens + prompt_tokens,
            completion_tokens=self.completion_tokens + completion_tokens,
            seconds=self.seconds + seconds,
        )


@dataclass(frozen=True)
class Record:
    """What a materialization says of itself, besides its rows.

    Attributes:
        inputs: upstream asset -> the data version that was read.
        usage: role -> requests.
        metrics: figures for the ledger; JSON values.
        device: where it ran; JSON values.
    """

    asset: str
    run_id: str
    code_version: str
    config_hash: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    usage: Mapping[str, RoleUsage] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Commit:
    """What a commit did. `data_version` is the hash of the asset's live content, 64 hex digits."""

    sequence: int
    data_version: str
    rows_total: int
    rows_added: int
    rows_removed: int
    rows_reused: int


@dataclass(frozen=True)
class LastRecord:
    """What a past materialization was made from, and its figures."""

    inputs: dict[str, str]
    code_version: str
    config_hash: str
    metrics: dict[str, Any]


def read_last_record(connection: duckdb.DuckDBPyConnection, asset: str) -> LastRecord | None:
    """The last materialization of an asset; None where there is none."""
    found = connection.execute(
        "SELECT sequence, code_version, config_hash, metrics FROM lineage.materializations "
        "WHERE asset = ? ORDER BY sequence DESC LIMIT 1",
        [asset],
    ).fetchall()
    if not found:
        return None
    sequence, code_version, config_hash, metrics = found[0]
    inputs = connection.execute(
        "SELECT asset, data_version FROM lineage.inputs WHERE sequence = ?", [sequence]
    ).fetchall()
    return LastRecord(dict(inputs), code_version, config_hash, json.loads(metrics))


def write_checkpoints(
    connection: duckdb.DuckDBPyConnection, checkpoints: Sequence[Checkpoint], sequence: int
) -> None:
    for checkpoint in checkpoints:
        connection.execute(
            """
            INSERT INTO lineage.checkpoints
            SELECT ?, ?, ?, ?, ?, ?, ? WHERE NOT EXISTS (
                SELECT 1 FROM lineage.checkpoints
                WHERE asset = ? AND content_hash = ? AND manifest_hash = ?
            )
            """,
            [
                checkpoint.asset,
                checkpoint.content_hash,
                checkpoint.manifest_hash,
                canonical_json(checkpoint.manifest),
                checkpoint.relative_path,
                [{"path": path, "sha256": sha} for path, sha in checkpoint.files.items()],
                sequence,
                checkpoint.asset,
                checkpoint.content_hash,
                checkpoint.manifest_hash,
            ],
        )


def write_record(
    connection: duckdb.DuckDBPyConnection,
    record: Record,
    commit: Commit,
    hashes: Mapping[str, str],
    previous: str,
) -> None:
    usage = record.usage.values()
    row: dict[str, Any] = {
        "sequence": commit.sequence,
        "run_id": record.run_id,
        "asset": record.asset,
        "data_version": commit.data_version,
        "code_version": record.code_version,
        "config_hash": record.config_hash,
        "rows_total": commit.rows_total,
        "rows_added": commit.rows_added,
        "rows_removed": commit.rows_removed,
        "rows_reused": commit.rows_reused,
        "requests_asked": sum(role.asked for role in usage),
        "requests_reused": sum(role.reused for role in usage),
        "requests_sent": sum(role.sent for role in usage),
        "tables": canonical_json(dict(hashes)),
        "metrics": canonical_json(dict(record.metrics)),
        "device": canonical_json(dict(record.device)),
        "started_at": record.started_at.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
    }
    inputs = [[asset, version] for asset, version in sorted(record.inputs.items())]
    row["previous_digest"] = previous
    row["digest"] = record_digest(row, inputs)
    marks = ", ".join("?" * len(row))
    connection.execute(
        f"INSERT INTO lineage.materializations ({', '.join(row)}) VALUES ({marks})",
        list(row.values()),
    )
    for asset, version in inputs:
        connection.execute(
            "INSERT INTO lineage.inputs VALUES (?, ?, ?)", [commit.sequence, asset, version]
        )
    for role, used in sorted(record.usage.items()):
        connection.execute(
            "INSERT INTO lineage.requests VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                commit.sequence,
                role,
                used.asked,
                used.reused,
                used.sent,
                used.prompt_tokens,
                used.completion_tokens,
                used.seconds,
            ],
        )


def record_digest(row: Mapping[str, Any], inputs: Sequence[Sequence[str]]) -> str:
    """The digest of a ledger row (without its own `digest`) and of its inputs, 64 hex digits."""
    told = {name: value for name, value in row.items() if name != "digest"}
    text = canonical_json([told, [list(pair) for pair in inputs]])
    return hashlib.sha256(text.encode()).hexdigest()
