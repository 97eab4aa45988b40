"""What a seed task touched: rows, the dataset, checkpoints and exports, now or at any past time.

Which rows descend from it, and how, is `lineage/descent.py`'s; here they are counted and named.
"""

from __future__ import annotations

import duckdb

from refine_dagster.lineage.descent import MODELS, TRAINED, descend
from refine_dagster.lineage.impact_record import (
    CheckpointImpact,
    DatasetImpact,
    ExportImpact,
    Impact,
    SeedVersion,
    TableImpact,
)
from refine_dagster.lineage.row_lookup import RowError, find_row, is_prefix
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.warehouse import Warehouse, require_as_of

SEEDS = "seed_tasks"
DATASET = "instruction_dataset"


def impact(warehouse: Warehouse, seed: str, as_of: int | None = None) -> Impact:
    """What a seed task touched.

    Args:
        seed: a seed_id, or the row_id of one version of a seed task, or its first 6 or more
            digits. A seed_id stands for its version at the time, or, if it had none then, for all
            that it ever had.
        as_of: sequence of a materialization; None is now.

    Raises:
        RowError: there is no such seed task.
        WarehouseError: there is no such materialization, or the rows of its time were pruned.
    """
    with warehouse.connect() as connection:
        last = connection.execute(
            "SELECT coalesce(max(sequence), 0) FROM lineage.materializations"
        ).fetchall()
        latest = int(last[0][0])
        moment = latest if as_of is None else as_of
        require_as_of(connection, moment)
        asked, others = _versions(connection, seed, moment)
        descend(connection, SEEDS, sorted({one.row_id for one in asked}), moment)
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
            checkpoints=_checkpoints(connection),
            exports=_exports(connection),
            live_checkpoints=_live_checkpoints(connection),
        )


def _versions(
    connection: duckdb.DuckDBPyConnection, seed: str, moment: int
) -> tuple[tuple[SeedVersion, ...], tuple[SeedVersion, ...]]:
    """The versions meant by `seed`, and the other versions of the same seed ids."""
    named = _seed_versions(connection, "seed_id = ?", seed)
    if named:
        then = [one for one in named if _lived(one, moment)]
        asked = then or named
    else:
        if not is_prefix(seed):
            raise RowError(
                f"there is no seed task {seed!r}, live or removed",
                fix="give a seed_id or a row_id; `refine-dagster show seed_tasks` lists live ones",
            )
        found = find_row(connection, seed)
        if found.table != SEEDS:
            raise RowError(
                f"{found.row_id} is a row of {found.table}, not a seed task",
                fix=f"what came of it: `refine-dagster trace {found.row_id} --down`",
            )
        asked = _seed_versions(connection, "row_id = ?", found.row_id)
        named = _seed_versions(connection, "seed_id = ?", asked[0].seed_id)
    meant = {one.row_id for one in asked}
    return tuple(asked), tuple(one for one in named if one.row_id not in meant)


def _seed_versions(
    connection: duckdb.DuckDBPyConnection, where: str, value: str
) -> list[SeedVersion]:
    found = connection.execute(
        f"SELECT row_id, seed_id, instruction, added_in, removed_in FROM history.{SEEDS} "
        f"WHERE {where} ORDER BY added_in, row_id",
        [value],
    ).fetchall()
    return [SeedVersion(*row) for row in found]


def _lived(version: SeedVersion, moment: int) -> bool:
    removed = version.removed_in
    return version.added_in <= moment and (removed is None or removed > moment)


def _tables(connection: duckdb.DuckDBPyConnection, moment: int) -> tuple[TableImpact, ...]:
    found = connection.execute(
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
    found.sort(key=lambda row: order.index(row[0]))
    return tuple(TableImpact(*row) for row in found)


def _dataset(connection: duckdb.DuckDBPyConnection, moment: int) -> DatasetImpact | None:
    found = connection.execute(
        """
        SELECT data_version, sequence,
               (SELECT count(*) FROM touched WHERE lived AND table_name = asset), rows_total
        FROM lineage.materializations WHERE asset = ? AND sequence <= ?
        ORDER BY sequence DESC LIMIT 1
        """,
        [DATASET, moment],
    ).fetchall()
    return DatasetImpact(*found[0]) if found else None


# Every row of a model, with its folder and whether its checkpoint serves a live model.
_MODEL_ROWS = " UNION ALL ".join(
    f"SELECT '{name}' AS table_name, row_id, checkpoint_hash, removed_in FROM history.{name}"
    for name in MODELS
)
_CHECKPOINTS = f"""
    WITH models AS ({_MODEL_ROWS}),
    folders AS (
        SELECT asset AS table_name, content_hash AS checkpoint_hash, any_value(path) AS path
        FROM lineage.checkpoints GROUP BY ALL
    ),
    living AS (
        SELECT DISTINCT table_name, checkpoint_hash FROM models WHERE removed_in IS NULL
    )
"""


def _checkpoints(connection: duckdb.DuckDBPyConnection) -> tuple[CheckpointImpact, ...]:
    found = connection.execute(
        f"""
        {_CHECKPOINTS}
        SELECT DISTINCT table_name, row_id, checkpoint_hash, path, how,
               (table_name, checkpoint_hash) IN (FROM living)
        FROM touched JOIN models USING (table_name, row_id)
        LEFT JOIN folders USING (table_name, checkpoint_hash)
        WHERE lived AND checkpoint_hash IS NOT NULL
        ORDER BY ALL
        """
    ).fetchall()
    return tuple(CheckpointImpact(*row) for row in found)


def _live_checkpoints(connection: duckdb.DuckDBPyConnection) -> tuple[CheckpointImpact, ...]:
    found = connection.execute(
        f"""
        {_CHECKPOINTS},
        holding AS (
            SELECT DISTINCT table_name, checkpoint_hash
            FROM touched JOIN models USING (table_name, row_id) WHERE how = '{TRAINED}'
        )
        SELECT DISTINCT table_name, row_id, checkpoint_hash, path, '{TRAINED}', true
        FROM models JOIN holding USING (table_name, checkpoint_hash)
        LEFT JOIN folders USING (table_name, checkpoint_hash)
        WHERE removed_in IS NULL
        ORDER BY ALL
        """
    ).fetchall()
    return tuple(CheckpointImpact(*row) for row in found)


def _exports(connection: duckdb.DuckDBPyConnection) -> tuple[ExportImpact, ...]:
    found = connection.execute(
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
    return tuple(ExportImpact(*row) for row in found)
