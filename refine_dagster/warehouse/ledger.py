"""The ledger: a record of every materialization, chained by digest.

Rows of `lineage.materializations` and of the tables attached to it are only ever added, in the
transaction that changes the data. Each row's digest covers the row, what is attached to it, and the
digest before it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import polars as pl

from refine_dagster.hashing import canonical_json, json_hash, text_hash
from refine_dagster.warehouse.checkpoints import Checkpoint

GENESIS = "0" * 64
# The asset in the records of prunes (`lineage/prune.py`).
PRUNE = "prune"
# In the metrics of a prune that forgot a seed.
FORGOTTEN_COMPLETIONS = "forgotten_completions"
FORGOTTEN_MANIFESTS = "forgotten_manifests"
# The run of a record that a migration wrote (`warehouse/rewrites.py`) begins with this.
MIGRATION = "migration "
# The digest of a used completion: SQL over `sent` and a row `completion` of the store.
USE_DIGEST = "sha256(sent || CAST(to_json(completion) AS VARCHAR))"


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
    """A materialization, besides its rows; mappings hold JSON values.

    Attributes:
        inputs: upstream asset -> the data version that was read; `file:<name>` -> the content hash
            of another file that was read.
        config: the config behind `config_hash`.
        usage: role -> requests.
        uses: key of each completion used -> whether it was sent in this materialization.
    """

    asset: str
    run_id: str
    code_version: str
    config_hash: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, RoleUsage] = field(default_factory=dict)
    uses: Mapping[str, bool] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    device: Mapping[str, Any] = field(default_factory=dict)
    started_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class Commit:
    """A commit's effect.

    Attributes:
        data_version: the hash of the asset's live content, 64 hex digits.
        digest: of its entry in the ledger; "" before it is written.
    """

    sequence: int
    data_version: str
    rows_total: int
    rows_added: int
    rows_removed: int
    rows_reused: int
    digest: str = ""


@dataclass(frozen=True)
class LastRecord:
    """What a past materialization was made from, and its figures."""

    inputs: dict[str, str]
    code_version: str
    config_hash: str
    metrics: dict[str, Any]


@dataclass(frozen=True)
class Prune:
    """A past prune. Of states up to and including `horizon`, some rows are gone.

    Attributes:
        completions: keys of those that had the text of a forgotten seed.
        manifests: manifest hash -> sha256 of what is left of a manifest that had it.
    """

    sequence: int
    horizon: int
    completions: tuple[str, ...]
    manifests: Mapping[str, str]


def read_last_record(connection: duckdb.DuckDBPyConnection, asset: str) -> LastRecord | None:
    """The last materialization of an asset; None where there is none."""
    records = connection.execute(
        "SELECT sequence, code_version, config_hash, metrics FROM lineage.materializations "
        "WHERE asset = ? ORDER BY sequence DESC LIMIT 1",
        [asset],
    ).fetchall()
    if not records:
        return None
    sequence, code_version, config_hash, metrics = records[0]
    inputs = connection.execute(
        "SELECT asset, data_version FROM lineage.inputs WHERE sequence = ?", [sequence]
    ).fetchall()
    return LastRecord(dict(inputs), code_version, config_hash, json.loads(metrics))


def read_data_versions(connection: duckdb.DuckDBPyConnection) -> dict[str, str]:
    """Asset -> data version of its last materialization."""
    found = connection.execute(
        "SELECT asset, arg_max(data_version, sequence) FROM lineage.materializations GROUP BY asset"
    )
    return dict(found.fetchall())


def write_record(
    connection: duckdb.DuckDBPyConnection,
    record: Record,
    commit: Commit,
    hashes: Mapping[str, str],
    checkpoints: Sequence[Checkpoint],
    previous: str,
) -> str:
    """Write the ledger's next entry, and what is attached to it; its digest."""
    sequence = commit.sequence
    connection.execute(
        "INSERT OR IGNORE INTO lineage.configs VALUES (?, ?)",
        [record.config_hash, canonical_json(dict(record.config))],
    )
    inputs = [[asset, version] for asset, version in sorted(record.inputs.items())]
    requests = [[role, *astuple(usage)] for role, usage in sorted(record.usage.items())]
    registered = [
        [checkpoint.asset, checkpoint.content_hash, checkpoint.manifest_hash]
        for checkpoint in checkpoints
        if _write_checkpoint(connection, checkpoint, sequence)
    ]
    _insert(connection, "lineage.inputs", [[sequence, *row] for row in inputs])
    _insert(connection, "lineage.requests", [[sequence, *row] for row in requests])
    usage = record.usage.values()
    row: dict[str, Any] = {
        "sequence": sequence,
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
        "completions": _write_uses(connection, record.uses, sequence),
        "metrics": canonical_json(dict(record.metrics)),
        "device": canonical_json(dict(record.device)),
        "started_at": record.started_at.isoformat(),
        "finished_at": datetime.now(UTC).isoformat(),
        "previous_digest": previous,
    }
    attached = {"inputs": inputs, "requests": requests, "checkpoints": sorted(registered)}
    row["digest"] = record_digest(row, attached)
    _insert(connection, f"lineage.materializations ({', '.join(row)})", [list(row.values())])
    return str(row["digest"])


def record_digest(row: Mapping[str, Any], attached: Mapping[str, Sequence[Sequence[Any]]]) -> str:
    """The digest of a ledger row, 64 hex digits.

    Args:
        row: the row; its own `digest` is left out.
        attached: the rows of that sequence, sorted, without the sequence: `inputs` (asset,
            data_version), `requests` (all columns in order) and `checkpoints` (asset, content_hash,
            manifest_hash).
    """
    covered = {name: value for name, value in row.items() if name != "digest"}
    lists = {name: [list(row) for row in rows] for name, rows in attached.items()}
    return json_hash([covered, lists])


def completions_hash(connection: duckdb.DuckDBPyConnection, sequence: int) -> str:
    """One hash of the completions that a materialization used, as they were, 64 hex digits."""
    ((digest,),) = connection.execute(
        "SELECT sha256(coalesce(string_agg(digest, '' ORDER BY key), '')) "
        "FROM lineage.uses WHERE sequence = ?",
        [sequence],
    ).fetchall()
    return str(digest)


def next_link(connection: duckdb.DuckDBPyConnection) -> tuple[int, str]:
    """Sequence of the ledger row that would come next, and the digest that it is linked to."""
    last = connection.execute(
        "SELECT sequence, digest FROM lineage.materializations ORDER BY sequence DESC LIMIT 1"
    ).fetchall()
    return (last[0][0] + 1, last[0][1]) if last else (1, GENESIS)


def read_prunes(connection: duckdb.DuckDBPyConnection) -> list[Prune]:
    prunes = connection.execute(
        "SELECT sequence, metrics FROM lineage.materializations WHERE asset = ? ORDER BY sequence",
        [PRUNE],
    ).fetchall()
    found = [(sequence, json.loads(metrics)) for sequence, metrics in prunes]
    return [
        Prune(
            sequence,
            int(metrics["horizon"]),
            tuple(metrics.get(FORGOTTEN_COMPLETIONS, ())),
            metrics.get(FORGOTTEN_MANIFESTS, {}),
        )
        for sequence, metrics in found
    ]


def _write_uses(
    connection: duckdb.DuckDBPyConnection, uses: Mapping[str, bool], sequence: int
) -> str:
    if not uses:
        return text_hash("")
    listed = pl.DataFrame({"key": list(uses), "sent": list(uses.values())})
    connection.register("used", listed.to_arrow())
    connection.execute(
        f"INSERT INTO lineage.uses BY NAME SELECT {sequence} AS sequence, key, sent, "
        f"{USE_DIGEST} AS digest "
        "FROM used LEFT JOIN store.completions AS completion USING (key)"
    )
    connection.unregister("used")
    return completions_hash(connection, sequence)


def _write_checkpoint(
    connection: duckdb.DuckDBPyConnection, checkpoint: Checkpoint, sequence: int
) -> bool:
    named = [checkpoint.asset, checkpoint.content_hash, checkpoint.manifest_hash]
    known = connection.execute(
        "SELECT 1 FROM lineage.checkpoints "
        "WHERE asset = ? AND content_hash = ? AND manifest_hash = ?",
        named,
    ).fetchall()
    if known:
        return False
    files = [{"path": path, "sha256": sha} for path, sha in checkpoint.files.items()]
    row = [*named, canonical_json(checkpoint.manifest), checkpoint.relative_path, files, sequence]
    _insert(connection, "lineage.checkpoints", [row])
    return True


def _insert(
    connection: duckdb.DuckDBPyConnection, table: str, rows: Sequence[Sequence[Any]]
) -> None:
    if rows:
        marks = f"({', '.join('?' * len(rows[0]))})"
        every = ", ".join([marks] * len(rows))
        connection.execute(f"INSERT INTO {table} VALUES {every}", [v for row in rows for v in row])
