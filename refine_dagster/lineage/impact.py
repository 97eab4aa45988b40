"""What a seed touched: rows, datasets, checkpoints and exports, now or at any past time.

A row descends from a seed in one of three ways, and counts as the first of these that holds:

- `shown`: some way from the seed to the row goes through texts alone: the seed stood in a prompt,
  what was written was selected, and so on.
- `trained`: every such way goes through a model that learnt from the seed, or from rows that
  descend from it. A model never counts as shown: a prompt of its training is learnt from.
- `compared`: the seed's text was only compared or measured with: it was the nearest text of a
  novelty decision, or what came of it measured a policy's gain.

Removed rows keep their edges, so the question can be asked of a seed that is long gone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import duckdb
import polars as pl

from refine_dagster.lineage.trace import RowError, find_row, is_prefix
from refine_dagster.warehouse.sql import literal, literals
from refine_dagster.warehouse.tables import MODELS, TABLES, asset_sql
from refine_dagster.warehouse.warehouse import Warehouse, require_as_of


@dataclass(frozen=True)
class SeedVersion:
    """A version of a seed task; `removed_in` is None while it lives."""

    row_id: str
    seed_id: str
    instruction: str
    added_in: int
    removed_in: int | None

    def lived(self, moment: int) -> bool:
        removed = self.removed_in
        return self.added_in <= moment and (removed is None or removed > moment)


@dataclass(frozen=True)
class TableImpact:
    """Rows of one table that descend from the seed: at the time by how they do, and ever.

    `of` counts all rows of the table that lived at the time.
    """

    table: str
    shown: int
    trained: int
    compared: int
    of: int
    ever: int

    @property
    def rows(self) -> int:
        """Rows that lived at the time and descend from the seed."""
        return self.shown + self.trained + self.compared


@dataclass(frozen=True)
class DatasetImpact:
    """The dataset as it was, and how many of its rows descend from the seed."""

    data_version: str
    sequence: int
    rows: int
    of: int


@dataclass(frozen=True)
class CheckpointImpact:
    """A model's checkpoint that lived at the time and descends from the seed.

    Attributes:
        row_id: the model's row.
        path: its folder, relative to the artifact root; None where none is registered.
        how: `trained`, or `compared`: the seed only served to measure it.
        live: whether a live model has this checkpoint now.
    """

    asset: str
    row_id: str
    content_hash: str
    path: str | None
    how: str
    live: bool


@dataclass(frozen=True)
class ExportImpact:
    """An exported file, and how many of its `of` rows descend from the seed."""

    row_id: str
    path: str
    format: str
    data_version: str
    rows: int
    of: int


@dataclass(frozen=True)
class Impact:
    """What a seed touched, as of one materialization.

    Attributes:
        seeds: the versions that were asked about.
        others: other versions of the same seed ids.
        latest: the last materialization.
        tables: those that ever had a row that descends from the seed.
        rows: `table`, `row_id`, `how` of every row counted.
        dataset: None before there was one.
        exports: files exported by that time and not written again since.
        live_checkpoints: checkpoints of live models that were trained on the seed, whether the
            model's row descends from it or an older row of the same bytes does.
    """

    seeds: tuple[SeedVersion, ...]
    others: tuple[SeedVersion, ...]
    as_of: int
    latest: int
    tables: tuple[TableImpact, ...]
    rows: pl.DataFrame
    dataset: DatasetImpact | None
    checkpoints: tuple[CheckpointImpact, ...]
    exports: tuple[ExportImpact, ...]
    live_checkpoints: tuple[CheckpointImpact, ...]

    def as_json(self) -> dict[str, Any]:
        values = asdict(self)
        del values["rows"]
        return {**values, "rows": self.rows.to_dicts()}


SHOWN, TRAINED, COMPARED = "shown", "trained", "compared"
LEARNT_ROLES = ("trained_on",)
COMPARED_ROLES = ("nearest", "measured_on")
# An edge of `lineage.parents` by what it carries: 0 text, 1 what a model learnt, 2 a comparison.
EDGE_WAY = f"""
    CASE WHEN role IN ({literals(COMPARED_ROLES)}) THEN 2
         WHEN role IN ({literals(LEARNT_ROLES)}) OR table_name IN ({literals(MODELS)}) THEN 1
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
    # First what is reached by texts alone, then by models too, then by comparisons too.
    step = 0
    for way in range(3):
        since = 0
        while True:
            step += 1
            ((added,),) = connection.execute(
                f"""
                INSERT INTO descended
                SELECT DISTINCT table_name, row_id, {way}, {step} FROM lineage.parents
                WHERE {EDGE_WAY} <= {way}
                  AND parent_id IN (SELECT id FROM descended WHERE step >= {since})
                  AND row_id NOT IN (SELECT id FROM descended)
                """
            ).fetchall()
            if added == 0:
                break
            since = step
    names = literals((SHOWN, TRAINED, COMPARED))
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


SEEDS = "seed_tasks"
DATASET = "instruction_dataset"


def impact(warehouse: Warehouse, seed: str, as_of: int | None = None) -> Impact:
    """What a seed task touched.

    Args:
        seed: a seed_id, or a row_id of a seed task or its first digits. A seed_id stands for its
            version at the time, or, if it had none then, for all that it ever had.
        as_of: sequence of a materialization; None is now.

    Raises:
        RowError: there is no such seed task.
        WarehouseError: there is no such materialization, or the rows of its time were pruned.
    """
    with warehouse.connect() as connection:
        ((latest,),) = connection.execute(
            "SELECT coalesce(max(sequence), 0) FROM lineage.materializations"
        ).fetchall()
        moment = latest if as_of is None else as_of
        require_as_of(connection, moment)
        asked, others = _versions(connection, seed, moment)
        descend(connection, SEEDS, sorted({version.row_id for version in asked}), moment)
        return Impact(
            seeds=asked,
            others=others,
            as_of=moment,
            latest=latest,
            tables=_tables(connection, moment),
            rows=connection.sql(
                'SELECT table_name AS "table", row_id, how FROM touched '
                "WHERE lived ORDER BY table_name, row_id"
            ).pl(),
            dataset=_dataset(connection, moment),
            checkpoints=_checkpoints(connection, _CHECKPOINTS_OF_THE_TIME),
            exports=_exports(connection),
            live_checkpoints=_checkpoints(connection, _LIVE_CHECKPOINTS),
        )


def _versions(
    connection: duckdb.DuckDBPyConnection, seed: str, moment: int
) -> tuple[tuple[SeedVersion, ...], tuple[SeedVersion, ...]]:
    """The versions meant by `seed`, and the other versions of the same seed ids."""
    versions = _seed_versions(connection, "seed_id = ?", seed)
    if versions:
        asked = [version for version in versions if version.lived(moment)] or versions
    else:
        if not is_prefix(seed):
            raise RowError(
                f"there is no seed task {seed!r}, live or removed",
                fix="give a seed_id or a row_id; `refine-dagster show seed_tasks` lists live ones",
            )
        row = find_row(connection, seed)
        if row.table != SEEDS:
            raise RowError(
                f"{row.row_id} is a row of {row.table}, not a seed task",
                fix=f"what came of it: `refine-dagster trace {row.row_id} --down`",
            )
        asked = _seed_versions(connection, "row_id = ?", row.row_id)
        versions = _seed_versions(connection, "seed_id = ?", asked[0].seed_id)
    ids = {version.row_id for version in asked}
    return tuple(asked), tuple(version for version in versions if version.row_id not in ids)


def _seed_versions(
    connection: duckdb.DuckDBPyConnection, where: str, value: str
) -> list[SeedVersion]:
    rows = connection.execute(
        f"SELECT row_id, seed_id, instruction, added_in, removed_in FROM history.{SEEDS} "
        f"WHERE {where} ORDER BY added_in, row_id",
        [value],
    ).fetchall()
    return [SeedVersion(*row) for row in rows]


def _tables(connection: duckdb.DuckDBPyConnection, moment: int) -> tuple[TableImpact, ...]:
    rows = connection.execute(
        """
        WITH alive AS (
            SELECT table_name, count(*) AS total FROM lineage.rows
            WHERE added_in <= ? AND coalesce(removed_in > ?, true) GROUP BY ALL
        )
        SELECT table_name, count(*) FILTER (lived AND how = 'shown'),
               count(*) FILTER (lived AND how = 'trained'),
               count(*) FILTER (lived AND how = 'compared'), coalesce(any_value(total), 0), count(*)
        FROM touched LEFT JOIN alive USING (table_name)
        GROUP BY table_name
        """,
        [moment, moment],
    ).fetchall()
    order = list(TABLES)
    rows.sort(key=lambda row: order.index(row[0]))
    return tuple(TableImpact(*row) for row in rows)


def _dataset(connection: duckdb.DuckDBPyConnection, moment: int) -> DatasetImpact | None:
    rows = connection.execute(
        """
        SELECT data_version, sequence,
               (SELECT count(*) FROM touched WHERE lived AND table_name = asset), rows_total
        FROM lineage.materializations WHERE asset = ? AND sequence <= ?
        ORDER BY sequence DESC LIMIT 1
        """,
        [DATASET, moment],
    ).fetchall()
    return DatasetImpact(*rows[0]) if rows else None


# Every row of a model, with its folder and whether its checkpoint serves a live model.
_MODEL_ROWS = " UNION ALL ".join(
    f"SELECT {literal(name)} AS table_name, {asset_sql(TABLES[name])} AS asset, "
    f"row_id, checkpoint_hash, removed_in FROM history.{name}"
    for name in MODELS
)
_CHECKPOINTS = f"""
    WITH models AS ({_MODEL_ROWS}),
    folders AS (
        SELECT asset, content_hash AS checkpoint_hash, any_value(path) AS path
        FROM lineage.checkpoints GROUP BY ALL
    ),
    living AS (
        SELECT DISTINCT asset, checkpoint_hash FROM models WHERE removed_in IS NULL
    )
"""


_CHECKPOINTS_OF_THE_TIME = f"""
    {_CHECKPOINTS}
    SELECT DISTINCT asset, row_id, checkpoint_hash, path, how,
           (asset, checkpoint_hash) IN (FROM living)
    FROM touched JOIN models USING (table_name, row_id)
    LEFT JOIN folders USING (asset, checkpoint_hash)
    WHERE lived AND checkpoint_hash IS NOT NULL
    ORDER BY ALL
"""
_LIVE_CHECKPOINTS = f"""
    {_CHECKPOINTS},
    holding AS (
        SELECT DISTINCT asset, checkpoint_hash
        FROM touched JOIN models USING (table_name, row_id) WHERE how = {literal(TRAINED)}
    )
    SELECT DISTINCT asset, row_id, checkpoint_hash, path, {literal(TRAINED)}, true
    FROM models JOIN holding USING (asset, checkpoint_hash)
    LEFT JOIN folders USING (asset, checkpoint_hash)
    WHERE removed_in IS NULL
    ORDER BY ALL
"""


def _checkpoints(connection: duckdb.DuckDBPyConnection, sql: str) -> tuple[CheckpointImpact, ...]:
    return tuple(CheckpointImpact(*row) for row in connection.execute(sql).fetchall())


def _exports(connection: duckdb.DuckDBPyConnection) -> tuple[ExportImpact, ...]:
    rows = connection.execute(
        """
        WITH exported AS (
            SELECT DISTINCT row_id, path, format, data_version, rows FROM history.exports
            WHERE row_id IN (SELECT row_id FROM touched WHERE lived AND table_name = 'exports')
        ),
        inside AS (
            SELECT row_id, replace(parent_id::VARCHAR, '-', '') AS parent_id FROM lineage.parents
            WHERE table_name = 'exports' AND row_id IN (SELECT row_id::UUID FROM exported)
        )
        SELECT exported.row_id, path, format, data_version, count(touched.row_id), rows
        FROM exported JOIN inside ON inside.row_id = exported.row_id::UUID
        LEFT JOIN touched ON touched.row_id = inside.parent_id
        GROUP BY ALL ORDER BY path, exported.row_id
        """
    ).fetchall()
    return tuple(ExportImpact(*row) for row in rows)
