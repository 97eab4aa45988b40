"""Audit of the ledger and of what it registers: completions, checkpoints and exports."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import duckdb

from refine_dagster.hashing import (
    canonical_json,
    content_id,
    file_hash,
    folder_files,
    json_hash,
    text_hash,
)
from refine_dagster.lineage.audit_report import AuditReport
from refine_dagster.lineage.prune import needed_keys_sql
from refine_dagster.warehouse.checkpoints import hash_files, hash_manifest
from refine_dagster.warehouse.heads import NotedHead
from refine_dagster.warehouse.ledger import (
    GENESIS,
    USE_DIGEST,
    read_prunes,
    record_digest,
)
from refine_dagster.warehouse.tables import MODELS, TABLES, asset_sql

ATTACHED = ("inputs", "requests", "uses", "checkpoints")


def check_chain(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Sequences have no gaps; each row is linked to the one before it and gives its digest."""
    rows = connection.sql("SELECT * FROM lineage.materializations ORDER BY sequence").pl()
    attached = _attached(connection)
    previous, due = GENESIS, 1
    for row in rows.to_dicts():
        sequence = row["sequence"]
        name = f"materialization {sequence} ({row['asset']})"
        if sequence != due:
            missing = f"is missing; the ledger goes on with {sequence}"
            report.broken(f"materialization {due}", missing)
        elif row["previous_digest"] != previous:
            report.broken(name, "is not linked to the one before it")
        if record_digest(row, attached[sequence]) != row["digest"]:
            report.broken(name, "the row, or what is attached to it, does not give its digest")
        else:
            _check_sums(report, name, row, attached[sequence]["requests"])
        previous, due = row["digest"], sequence + 1
    report.looked_at("materializations", rows.height)
    for table in ATTACHED:
        strays = connection.execute(
            f"SELECT DISTINCT sequence FROM lineage.{table} "
            "WHERE sequence NOT IN (SELECT sequence FROM lineage.materializations) ORDER BY 1"
        ).fetchall()
        report.broken_each(
            (f"lineage.{table} of sequence {sequence}", "there is no such materialization")
            for (sequence,) in strays
        )


def check_heads(
    connection: duckdb.DuckDBPyConnection, report: AuditReport, heads: Sequence[NotedHead]
) -> None:
    """Each head that was noted elsewhere is still an entry of the ledger."""
    digests = {
        digest
        for (digest,) in connection.execute(
            "SELECT digest FROM lineage.materializations"
        ).fetchall()
    }
    report.broken_each(
        (
            f"head {head.digest} ({head.noted_in})",
            "is no entry of the ledger: entries were cut off or changed after it was noted",
        )
        for head in heads
        if head.digest not in digests
    )
    if heads:
        report.looked_at("noted heads", len(heads))


def check_registered(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Configs and checkpoints give their hashes, and each config belongs to a record."""
    configs = connection.execute("SELECT * FROM lineage.configs ORDER BY config_hash").fetchall()
    for config_hash, config in configs:
        values = json.loads(config)
        if content_id("config", values) != config_hash or canonical_json(values) != config:
            report.broken(f"lineage.configs {config_hash}", "the config does not give its hash")
    unmatched = connection.execute(
        "SELECT config_hash, min(sequence) FROM lineage.configs "
        "FULL JOIN lineage.materializations AS made USING (config_hash) "
        "GROUP BY config_hash HAVING count(config) = 0 OR count(sequence) = 0 ORDER BY 1"
    ).fetchall()
    report.broken_each(
        (f"lineage.configs {config_hash}", "no materialization used it")
        if sequence is None
        else (f"lineage.configs {config_hash}", f"is missing; materialization {sequence} used it")
        for config_hash, sequence in unmatched
    )
    report.looked_at("configs", len(configs))
    prunes = read_prunes(connection)
    forgotten = {name: left for prune in prunes for name, left in prune.manifests.items()}
    registered = connection.sql("SELECT * FROM lineage.checkpoints ORDER BY sequence, asset").pl()
    for row in registered.to_dicts():
        path = f"{row['asset']}/{row['content_hash'][:16]}"
        entry = f"lineage.checkpoints {path}"
        files = {file["path"]: file["sha256"] for file in row["files"]}
        if len(files) != len(row["files"]) or hash_files(files) != row["content_hash"]:
            report.broken(entry, "its list of files does not give its content hash")
        manifest = json.loads(row["manifest"])
        hashes = (row["manifest_hash"], forgotten.get(row["manifest_hash"]))
        if hash_manifest(manifest) not in hashes or canonical_json(manifest) != row["manifest"]:
            report.broken(entry, "its manifest does not give its manifest hash")
        if row["path"] != path:
            report.broken(entry, "its path is not the one that its content hash names")
    _check_trainings(connection, report)


def _check_trainings(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Trainings left the checkpoints that the materializations used which committed them."""
    found = connection.execute(
        """
        SELECT asset, manifest_hash, trained.content_hash, list(used.content_hash),
               count(used.sequence)
        FROM store.trainings AS trained
        LEFT JOIN lineage.checkpoints AS used USING (asset, manifest_hash)
        GROUP BY ALL ORDER BY asset, manifest_hash
        """
    ).fetchall()
    report.broken_each(
        (
            f"store.trainings {asset}, manifest {manifest_hash}",
            "names another checkpoint than the materializations that used one",
        )
        for asset, manifest_hash, content_hash, used, uses in found
        if uses and content_hash not in used
    )
    if waiting := sum(not uses for *_, uses in found):
        report.skipped.append(f"{waiting} trainings whose checkpoints no materialization used yet")


def check_completions(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Completions give their keys, and are those that the materializations used."""
    _find_pruned(connection)
    unlike = connection.execute(
        """
        SELECT sequence, asset
        FROM lineage.materializations LEFT JOIN lineage.uses USING (sequence)
        GROUP BY sequence, asset, completions
        HAVING sha256(coalesce(string_agg(uses.digest, '' ORDER BY key), '')) <> completions
        ORDER BY sequence
        """
    ).fetchall()
    report.broken_each(
        (f"lineage.uses of materialization {sequence} ({asset})", "are not those it recorded")
        for sequence, asset in unlike
    )
    changed = connection.execute(
        f"""
        SELECT used.key, used.sequence, completion.key IS NULL,
               {USE_DIGEST.replace("sent", "(NOT sent)")} IS NOT DISTINCT FROM digest
        FROM lineage.uses AS used
        LEFT JOIN store.completions AS completion USING (key)
        LEFT JOIN pruned ON pruned.key = used.key AND used.sequence < pruned.sequence
        WHERE pruned.key IS NULL
          AND (completion.key IS NULL OR {USE_DIGEST} IS DISTINCT FROM digest)
          AND NOT list_contains(?::BIGINT[], used.sequence)
        ORDER BY used.sequence, used.key
        """,
        [[sequence for sequence, _ in unlike]],
    ).fetchall()
    report.broken_each(_changed(*row) for row in changed)
    report.broken_each(
        (f"store.completions {key}", "model, prompt, sampling and seed do not give its key")
        for key in _misnamed(connection)
    )
    stored, vouched, pruned = connection.execute(
        """
        SELECT (SELECT count(*) FROM store.completions),
               (SELECT count(DISTINCT key) FROM store.completions SEMI JOIN (
                    SELECT used.key FROM lineage.uses AS used LEFT JOIN pruned
                    ON pruned.key = used.key AND used.sequence < pruned.sequence
                    WHERE pruned.key IS NULL) USING (key)),
               (SELECT count(*) FROM pruned ANTI JOIN store.completions USING (key))
        """
    ).fetchall()[0]
    report.looked_at("completions", stored)
    if stored > vouched:
        report.skipped.append(
            f"{stored - vouched} completions that no materialization has used yet: only their keys "
            "were checked"
        )
    if pruned:
        report.skipped.append(f"{pruned} completions that were pruned")


def _changed(key: str, sequence: int, gone: bool, flipped: bool) -> tuple[str, str]:
    """Where and how a use and its completion disagree."""
    if flipped:
        use = f"lineage.uses of materialization {sequence}, key {key}"
        return use, "whether it was sent is not what was recorded"
    if gone:
        return f"store.completions {key}", f"is gone; materialization {sequence} used it"
    what = f"is not the completion that materialization {sequence} used"
    return f"store.completions {key}", what


def _check_sums(
    report: AuditReport, name: str, row: dict[str, Any], requests: list[list[Any]]
) -> None:
    sums = [sum(request[column] for request in requests) for column in (1, 2, 3)]
    if sums != [row[f"requests_{kind}"] for kind in ("asked", "reused", "sent")]:
        report.broken(name, "its requests are not the sum of those by role")
    tables = json.loads(row["tables"])
    if row["data_version"] not in (json_hash(tables), *tables.values()):
        report.broken(name, "its tables do not give its data version")


def _attached(connection: duckdb.DuckDBPyConnection) -> dict[int, dict[str, list[list[Any]]]]:
    """sequence -> what its digest covers besides the row (`ledger.record_digest`)."""
    columns = {
        "inputs": "asset, data_version",
        "requests": "role, asked, reused, sent, prompt_tokens, completion_tokens, seconds",
        "checkpoints": "asset, content_hash, manifest_hash",
    }
    attached: dict[int, dict[str, list[list[Any]]]] = defaultdict(
        lambda: {name: [] for name in columns}
    )
    for name, listed in columns.items():
        for sequence, *row in connection.execute(
            f"SELECT sequence, {listed} FROM lineage.{name} ORDER BY ALL"
        ).fetchall():
            attached[sequence][name].append(row)
    return attached


def _find_pruned(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the temporary table `pruned`: key, and the last prune that dropped it.

    What a prune drops follows from the uses recorded before it, which the digests cover.
    """
    connection.execute("CREATE OR REPLACE TEMP TABLE pruned (key VARCHAR, sequence BIGINT)")
    for prune in read_prunes(connection):
        connection.execute(
            f"INSERT INTO pruned SELECT DISTINCT key, {prune.sequence} FROM lineage.uses "
            f"WHERE sequence < {prune.sequence} "
            f"AND key NOT IN ({needed_keys_sql(prune.sequence)})"
        )
        connection.execute(
            f"INSERT INTO pruned SELECT unnest(?::VARCHAR[]), {prune.sequence}",
            [list(prune.completions)],
        )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE pruned AS "
        "SELECT key, max(sequence) AS sequence FROM pruned GROUP BY key"
    )


def _misnamed(connection: duckdb.DuckDBPyConnection) -> Iterable[str]:
    """Keys of completions that are not named by what was asked (`generation/request.py`)."""
    suspects = connection.execute(
        """
        SELECT key, model, prompt, sampling, seed FROM store.completions
        WHERE key <> sha256(concat('[', to_json(model), ',', to_json(prompt), ',', sampling, ',',
                                   seed, ']'))
        ORDER BY key
        """
    ).fetchall()
    # DuckDB writes some control characters differently from Python: these are checked again.
    for key, model, prompt, sampling, seed in suspects:
        text = f"[{canonical_json(model)},{canonical_json(prompt)},{sampling},{seed}]"
        if text_hash(text) != key:
            yield key


def check_checkpoints(
    connection: duckdb.DuckDBPyConnection, report: AuditReport, root: Path
) -> None:
    """Folders that live rows name, or all that are registered, hold the files registered."""
    registered: dict[tuple[str, str], tuple[str, dict[str, str], int]] = {}
    manifests: dict[tuple[str, str], set[str]] = {}
    for asset, content_hash, manifest_hash, path, files, sequence in connection.execute(
        "SELECT asset, content_hash, manifest_hash, path, files, sequence "
        "FROM lineage.checkpoints ORDER BY sequence, asset, path"
    ).fetchall():
        listed = {file["path"]: file["sha256"] for file in files}
        registered[asset, content_hash] = (path, listed, sequence)
        manifests.setdefault((asset, manifest_hash), set()).add(content_hash)
    named = " UNION ".join(
        f"SELECT {asset_sql(TABLES[name])}, checkpoint_hash FROM history.{name} "
        "WHERE removed_in IS NULL AND checkpoint_hash IS NOT NULL"
        for name in MODELS
    )
    live = set(connection.execute(named).fetchall())
    report.broken_each(
        (f"checkpoint {asset}/{content_hash[:16]}", "a live row names it, and it is not registered")
        for asset, content_hash in sorted(live - registered.keys())
    )
    pruned = max((prune.sequence for prune in read_prunes(connection)), default=0)
    for key, (path, listed, sequence) in registered.items():
        was_pruned = sequence < pruned and not (root / path).is_dir()
        if key in live or (report.deep and not was_pruned):
            report.looked_at("checkpoints", 1)
            _check_folder(report, root / path, f"checkpoints/{path}", listed)
    for (asset, manifest_hash), content_hashes in sorted(manifests.items()):
        note = root / asset / "manifests" / f"{manifest_hash}.json"
        if note.is_file() and not _true_note(note, manifest_hash, content_hashes):
            report.broken(
                f"checkpoints/{asset}/manifests/{note.name}",
                "does not name the checkpoint that is registered for its manifest",
            )


def check_exports(connection: duckdb.DuckDBPyConnection, report: AuditReport) -> None:
    """Exported files that are still in place have the bytes that were written."""
    exported = connection.execute("SELECT path, sha256 FROM main.exports ORDER BY path").fetchall()
    for path, sha256 in exported:
        file = Path(path)
        if not file.is_file():
            report.skipped.append(f"an export that is no longer at {path}")
        elif file_hash(file) != sha256:
            report.warned(path, "is not as it was exported")
        report.looked_at("exports", 1)


def _check_folder(report: AuditReport, folder: Path, name: str, listed: dict[str, str]) -> None:
    if not folder.is_dir():
        report.broken(name, "the folder is gone")
        return
    present = folder_files(folder)
    for path in sorted(listed.keys() | present.keys()):
        if path not in present:
            report.broken(f"{name}/{path}", "the file is gone")
        elif path not in listed:
            report.broken(f"{name}/{path}", "the file was not there when it was registered")
        elif present[path] != listed[path]:
            report.broken(f"{name}/{path}", "its bytes are not those that were registered")
        report.looked_at("checkpoint files", 1)


def _true_note(note: Path, manifest_hash: str, content_hashes: set[str]) -> bool:
    named = json.loads(note.read_text(encoding="utf-8"))
    if not isinstance(named, dict) or not {"content_hash", "manifest"} <= named.keys():
        return False
    return named["content_hash"] in content_hashes and (
        hash_manifest(named["manifest"]) == manifest_hash
    )
