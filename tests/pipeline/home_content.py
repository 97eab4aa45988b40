"""What a home holds, for comparing two of them, and what must hold of any home at any moment."""

from __future__ import annotations

import json
from typing import Any

import duckdb

from refine_dagster.hashing import folder_files
from refine_dagster.home import Home
from refine_dagster.warehouse.checkpoints import CheckpointStore, hash_files
from refine_dagster.warehouse.content import NO_ROWS, content_hash, relation_content, slices_in
from refine_dagster.warehouse.ledger import GENESIS, record_digest
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse

# Folders beside an asset's checkpoints: notes of what they were made from, and the state of a
# training that was cut off.
NO_CHECKPOINTS = ("manifests", "resume")

# Models that tell of runs and seconds: they differ between two ways to the same content.
TELL_OF_RUNS = ("stg_materializations", "stg_completions", "request_ledger")


def content(home: Home) -> dict[str, Any]:
    """Everything that two homes with the same seeds and config have in common.

    Every column of every live row, the last data version of every asset and SQL model, every
    checkpoint, and every completion but for the seconds it took and the run that sent it.
    """
    warehouse = Warehouse(home.warehouse)
    with warehouse.held():
        versions = warehouse.query(
            "SELECT asset, arg_max(data_version, sequence) FROM lineage.materializations "
            "GROUP BY asset ORDER BY asset"
        ).rows()
        return {
            "tables": {
                name: warehouse.query(f"SELECT * FROM main.{name} ORDER BY row_id").rows()
                for name, table in TABLES.items()
                if table.asset != "exports"
            },
            "versions": [one for one in versions if one[0] not in TELL_OF_RUNS],
            "checkpoints": warehouse.query(
                "SELECT asset, content_hash, manifest_hash, path FROM lineage.checkpoints "
                "ORDER BY ALL"
            ).rows(),
            "completions": warehouse.query(
                "SELECT * EXCLUDE (seconds, run_id) FROM store.completions ORDER BY key"
            ).rows(),
        }


def base_model_folder(home: Home) -> str:
    """The folder of the live base model, to be named as a model that is given."""
    content_hash = Warehouse(home.warehouse).read("base_model")["checkpoint_hash"].item()
    return str(CheckpointStore(home.checkpoints).path_of("base_model", content_hash))


def completion_keys(home: Home) -> set[str]:
    """Keys of the stored completions; none where there is no warehouse yet."""
    if not home.warehouse.exists():
        return set()
    return set(Warehouse(home.warehouse).query("SELECT key FROM store.completions")["key"])


def assert_sound(home: Home) -> None:
    """No table without its record, no record without its table, nothing half-written."""
    if home.warehouse.exists():
        with Warehouse(home.warehouse).connect() as connection:
            _assert_tables_are_their_records(connection)
            _assert_ledger_chains(connection)
            registered = connection.execute(
                "SELECT DISTINCT asset, content_hash FROM lineage.checkpoints"
            ).fetchall()
        store = CheckpointStore(home.checkpoints)
        assert [one for one in registered if not store.is_whole(*one)] == []
    for folder in home.checkpoints.glob("*/*"):
        if folder.name not in NO_CHECKPOINTS and not folder.name.startswith(".partial-"):
            assert hash_files(folder_files(folder)).startswith(folder.name), folder


def _assert_tables_are_their_records(connection: duckdb.DuckDBPyConnection) -> None:
    records = connection.execute(
        "SELECT asset, arg_max(tables, sequence) FROM lineage.materializations GROUP BY asset"
    ).fetchall()
    recorded = {name: told for _, text in records for name, told in json.loads(text).items()}
    for owned in slices_in(connection):
        absent = NO_ROWS if owned.table.sparse else None
        assert content_hash(connection, owned) == recorded.get(owned.name, absent), owned.name
    stray = connection.execute(
        "SELECT table_name, row_id FROM lineage.rows WHERE added_in NOT IN "
        "(SELECT sequence FROM lineage.materializations) OR removed_in NOT IN "
        "(SELECT sequence FROM lineage.materializations)"
    ).fetchall()
    assert stray == []
    marts = connection.execute(
        "SELECT 'marts.' || table_name FROM duckdb_tables() WHERE schema_name = 'marts'"
    ).fetchall()
    assert {one for (one,) in marts} == {one for one in recorded if one.startswith("marts.")}
    for (name,) in marts:
        assert relation_content(connection, name)[2] == recorded[name], name


def _assert_ledger_chains(connection: duckdb.DuckDBPyConnection) -> None:
    found = connection.execute("SELECT * FROM lineage.materializations ORDER BY sequence")
    names = [column[0] for column in found.description or ()]
    rows = [dict(zip(names, row, strict=True)) for row in found.fetchall()]
    assert [row["sequence"] for row in rows] == list(range(1, len(rows) + 1))
    previous = GENESIS
    for row in rows:
        attached = {
            name: [
                list(one)
                for one in connection.execute(
                    f"SELECT {columns} FROM lineage.{name} WHERE sequence = ? ORDER BY ALL",
                    [row["sequence"]],
                ).fetchall()
            ]
            for name, columns in (
                ("inputs", "* EXCLUDE (sequence)"),
                ("requests", "* EXCLUDE (sequence)"),
                ("checkpoints", "asset, content_hash, manifest_hash"),
            )
        }
        assert row["previous_digest"] == previous, row["sequence"]
        assert record_digest(row, attached) == row["digest"], row["sequence"]
        previous = row["digest"]
