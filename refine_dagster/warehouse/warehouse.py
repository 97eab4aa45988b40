"""The warehouse: one DuckDB file in which data and the record of its making change together.

Every table is a history table: a row carries the sequence number of the materialization that added
it and of the one that removed it. People query the view of live rows; any past state is a WHERE
clause. Connections are short (`database.py`): read, close, compute, open, commit, close.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import polars as pl

from refine_dagster.config.policy_round import PolicyRound, split_sql
from refine_dagster.hashing import content_id, json_hash
from refine_dagster.warehouse.checkpoints import Checkpoint
from refine_dagster.warehouse.content import asset_content, row_hash_sql, slices_in
from refine_dagster.warehouse.database import DatabaseFile
from refine_dagster.warehouse.ledger import (
    Commit,
    LastRecord,
    Record,
    next_link,
    read_data_versions,
    read_last_record,
    read_prunes,
    write_record,
)
from refine_dagster.warehouse.rows import frame
from refine_dagster.warehouse.schema import (
    WarehouseError,
    first_row,
    is_up_to_date,
    migrate,
    require_known,
)
from refine_dagster.warehouse.sql import literal
from refine_dagster.warehouse.tables import (
    POLICY_ROUND,
    TABLES,
    Slice,
    is_beyond,
    slice_of,
    tables_of,
)

# The code version of a record that empties a slice whose asset the graph no longer has.
RETIRED = "retired"
# Inputs that are no assets are named with this prefix: `file:seeds`.
OUTSIDE = "file:"


class StaleInputsError(WarehouseError):
    """An input changed between its reading and the commit of what was made from it."""


class Warehouse(DatabaseFile):
    """The DuckDB file at `path`, made on first use, with an up-to-date schema."""

    @classmethod
    def to_read(cls, path: Path) -> Warehouse:
        """The warehouse at `path`, to read; one of another schema is brought up to date first.

        It needs no permission to write, and several processes may read at once.
        """
        file = DatabaseFile(path, read_only=True)
        with file.connect() as connection:
            current = is_up_to_date(connection)
        if not current:
            with cls(path).connect():
                pass
        return cls(path, read_only=True)

    def prepare(self, connection: duckdb.DuckDBPyConnection) -> None:
        if self.read_only:
            require_known(connection, self.path)
        else:
            migrate(connection, self.path)

    def read(self, name: str, *, as_of: int | None = None) -> pl.DataFrame:
        """The rows of a slice, by `row_id`: live, or as they were after materialization `as_of`.

        Args:
            name: a table, or its rows of a later policy round such as `raw_instructions_round_2`;
                of a table with rounds the plain name stands for the first.

        Raises:
            WarehouseError: there is no such slice or no such materialization, or the rows of that
                time were pruned.
        """
        owned = _declared(name)
        columns = ", ".join(["row_id", *owned.table.columns, "parents"])
        with self.reading() as connection:
            if as_of is None:
                alive, parameters = "removed_in IS NULL", []
            else:
                require_as_of(connection, as_of)
                alive, parameters = "added_in <= ? AND coalesce(removed_in > ?, true)", [as_of] * 2
            sql = (
                f"SELECT {columns} FROM history.{owned.table.name} "
                f"WHERE {owned.condition} AND {alive} ORDER BY row_id"
            )
            return connection.sql(sql, params=parameters).pl()

    def relations(self) -> dict[str, str]:
        """What can be queried by name: tables, staging views, marts -> their qualified names."""
        relations = self.query(
            "SELECT table_schema, table_name FROM information_schema.tables "
            "WHERE table_catalog = current_database() "
            "AND table_schema IN ('main', 'staging', 'marts') ORDER BY ALL"
        )
        return {name: f"{schema}.{name}" for schema, name in relations.rows()}

    def slices(self) -> list[Slice]:
        with self.reading() as connection:
            return slices_in(connection)

    def data_version(self, asset: str) -> str | None:
        """The data version of an asset's last materialization; None where there is none."""
        return self.data_versions().get(asset)

    def data_versions(self) -> dict[str, str]:
        """Asset -> data version of its last materialization, of all that have one."""
        with self.reading() as connection:
            return read_data_versions(connection)

    def last_record(self, asset: str) -> LastRecord | None:
        with self.reading() as connection:
            return read_last_record(connection, asset)

    def commit(
        self,
        record: Record,
        tables: Mapping[str, pl.DataFrame] | None,
        checkpoints: Sequence[Checkpoint] = (),
    ) -> Commit:
        """Replace the asset's live rows and write the record, in one transaction.

        Args:
            tables: every slice that the asset owns -> all its rows (`rows.frame`), with ids by
                content (`rows.make_row`); None records that they are unchanged.
            checkpoints: folders that the rows refer to, already published.

        Raises:
            WarehouseError: the tables are not the asset's, or a row id occurs twice.
            StaleInputsError: an input changed since it was read.
        """
        owned = tables_of(record.asset)
        if tables is not None and {part.name for part in owned} != set(tables):
            raise WarehouseError(
                f"{record.asset} owns {[part.name for part in owned]}, not {sorted(tables)}"
            )
        with self.connect() as connection:
            connection.execute("BEGIN TRANSACTION")
            _require_fresh(connection, record)
            sequence, previous = next_link(connection)
            counts = [
                _replace_rows(connection, part, tables[part.name], sequence)
                if tables is not None
                else (_live_rows(connection, part), 0, 0)
                for part in owned
            ]
            hashes = asset_content(connection, record.asset)
            commit = Commit(
                sequence=sequence,
                data_version=json_hash(hashes),
                rows_total=counts[0][0],
                rows_added=counts[0][1],
                rows_removed=counts[0][2],
                rows_reused=counts[0][0] - counts[0][1],
            )
            digest = write_record(connection, record, commit, hashes, checkpoints, previous)
            connection.execute("COMMIT")
        return replace(commit, digest=digest)

    def checkpoints_of(self, asset: str, manifest_hash: str) -> list[str]:
        """The content hash of the checkpoint that was trained last from a manifest, if any."""
        found = self.query(
            "SELECT content_hash FROM store.trainings WHERE asset = ? AND manifest_hash = ?",
            [asset, manifest_hash],
        )
        return found["content_hash"].to_list()

    def register_training(self, asset: str, manifest_hash: str, content_hash: str) -> None:
        """Register a finished training before its asset commits: a kill in between loses none."""
        with self.connect() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO store.trainings VALUES (?, ?, ?)",
                [asset, manifest_hash, content_hash],
            )

    def retire_rounds_beyond(self, rounds: int, run_id: str) -> list[str]:
        """Empty the slices of all policy rounds after `rounds`; the assets that had live rows.

        With the config field `rounds` lowered, no asset is left that would replace those rows: a
        removed seed would keep live descendants there. Each slice is emptied by an ordinary commit:
        history, completions and checkpoints stay, and if `rounds` is raised again, the rows come
        back from what is stored.
        """
        # Every step asks, and there seldom are any: the ledger says so in one short query.
        if not any(is_beyond(asset, rounds) for asset in self.data_versions()):
            return []
        tables = [table for table in TABLES.values() if table.rounds_from is not None]
        alive = self.query(
            " UNION ".join(
                f"SELECT {POLICY_ROUND}, {literal(table.asset)} AS asset FROM main.{table.name} "
                f"WHERE {POLICY_ROUND} > {rounds}"
                for table in tables
            )
        )
        order = [table.asset for table in tables]
        # The last made first: nothing that is live is left without what it was made from.
        retired = [
            PolicyRound(number).name(asset)
            for number, asset in sorted(
                alive.rows(), key=lambda row: (row[0], order.index(row[1])), reverse=True
            )
        ]
        config = {"rounds": rounds}
        for asset in retired:
            record = Record(
                asset=asset,
                run_id=run_id,
                code_version=RETIRED,
                config_hash=content_id("config", config),
                config=config,
            )
            self.commit(record, {owned.name: frame(owned.name, []) for owned in tables_of(asset)})
        return retired


def require_as_of(connection: duckdb.DuckDBPyConnection, as_of: int) -> None:
    """Refuse a place in the ledger whose rows are not known; 0 is before the first.

    Raises:
        WarehouseError: there is no such materialization, or rows of that time were pruned.
    """
    last = next_link(connection)[0] - 1
    if not 0 <= as_of <= last:
        raise WarehouseError(
            f"there is no materialization {as_of}", fix=f"give a number from 0 to {last}"
        )
    horizon = max((prune.horizon for prune in read_prunes(connection)), default=0)
    if 0 < as_of <= horizon:
        raise WarehouseError(
            f"rows that lived as of materialization {as_of} were pruned",
            fix=f"give a number from {horizon + 1} to {last}",
        )


def _require_fresh(connection: duckdb.DuckDBPyConnection, record: Record) -> None:
    """Refuse a commit that was made from former versions of its inputs."""
    latest = read_data_versions(connection)
    stale = [
        asset
        for asset, version in sorted(record.inputs.items())
        if not asset.startswith(OUTSIDE) and latest.get(asset) != version
    ]
    if stale:
        raise StaleInputsError(
            f"{', '.join(stale)} changed while {record.asset} was being made from it",
            where=f"commit of {record.asset}",
            fix="another run works in this home; when it has ended, run again: "
            "nothing of this commit was kept, every completion was",
        )


def _declared(name: str) -> Slice:
    try:
        return slice_of(name)
    except KeyError:
        raise WarehouseError(
            f"there is no table {name!r}", fix=f"one of {', '.join(TABLES)}"
        ) from None


def _replace_rows(
    connection: duckdb.DuckDBPyConnection, owned: Slice, rows: pl.DataFrame, sequence: int
) -> tuple[int, int, int]:
    """Close the rows that are gone, open the new ones; (total, added, removed).

    Equal ids are equal content: the cells of a row whose id is live are not compared.
    """
    table = owned.table
    names = ["row_id", *table.columns, "parents"]
    listed = ", ".join(names)
    if table.rounds_from is not None:
        listed += f", {owned.policy_round.number} AS {POLICY_ROUND}"
    twice = rows["row_id"].filter(rows["row_id"].is_duplicated()).unique().sort()
    if len(twice):
        raise WarehouseError(f"{owned.name}: row ids occur twice: {twice.head(3).to_list()}")
    # Views of strings go to DuckDB as they are, without a copy.
    arrow = rows.select(names).to_arrow(compat_level=pl.CompatLevel.newest())
    connection.register("incoming", arrow)
    alive = f"{owned.condition} AND removed_in IS NULL"
    removed = _count(
        connection,
        f"""
        UPDATE history.{table.name} AS old SET removed_in = {sequence}
        WHERE {alive}
          AND NOT EXISTS (SELECT 1 FROM incoming WHERE incoming.row_id = old.row_id)
        """,
    )
    live = f"(SELECT row_id FROM history.{table.name} WHERE {alive})"
    added = _count(
        connection,
        f"INSERT INTO history.{table.name} BY NAME SELECT {listed}, "
        f"{row_hash_sql(table)} AS row_hash, {sequence} AS added_in "
        f"FROM incoming ANTI JOIN {live} USING (row_id) ORDER BY row_id",
    )
    if added:
        _add_edges(connection, owned, sequence)
    connection.unregister("incoming")
    return rows.height, added, removed


def _add_edges(connection: duckdb.DuckDBPyConnection, owned: Slice, sequence: int) -> None:
    """Add the edges of the incoming rows that this commit added."""
    history, name = f"history.{owned.table.name}", literal(owned.table.name)
    added = f"(SELECT row_id FROM {history} WHERE {owned.condition} AND added_in = {sequence})"
    parent_table, parent_round = split_sql("parent.asset")
    # A row that comes back has its edges already.
    connection.execute(
        f"""
        INSERT INTO lineage.parents
        SELECT {name}, {owned.policy_round.number}, row_id,
               {parent_table}, {parent_round}, parent.row_id, parent.role
        FROM (
            SELECT row_id::UUID AS row_id, unnest(parents) AS parent
            FROM incoming SEMI JOIN {added} AS added USING (row_id)
        )
        WHERE row_id NOT IN (
            SELECT row_id FROM lineage.parents
            WHERE table_name = {name} AND row_id IN (SELECT row_id::UUID FROM {added} AS added)
        )
        ORDER BY ALL
        """
    )


def _live_rows(connection: duckdb.DuckDBPyConnection, owned: Slice) -> int:
    return _count(connection, f"SELECT count(*) FROM {owned.live}")


def _count(connection: duckdb.DuckDBPyConnection, sql: str) -> int:
    row = first_row(connection, sql)
    return int(row[0]) if row else 0
