"""What differs between two states: rows, old and new version side by side, and what assets read.

Rows are compared by one SQL statement for each table, over the rows that changed alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from refine_dagster.lineage.timeline import Timeline, Window
from refine_dagster.warehouse.tables import MODELS, REFERENCES, TABLES, key_sql, tables_of
from refine_dagster.warehouse.warehouse import OUTSIDE


def collect(connection: duckdb.DuckDBPyConnection, name: str, window: Window) -> None:
    """Make temporary table `name`: every natural key whose row differs between two states.

    Columns: `node` (a number), `asset`, `table_name`, `key`, `place` (counts rows that share a key,
    from 1), `old_id` and `new_id` (null where there is no such row).
    """
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE sides "
        "(asset VARCHAR, table_name VARCHAR, row_id VARCHAR, is_new BOOLEAN, key VARCHAR)"
    )
    for asset in sorted(window.before.keys() | window.after.keys()):
        before, after = window.before.get(asset, 0), window.after.get(asset, 0)
        touched = min(before, after)
        for owned in tables_of(asset) if before != after else ():
            table = owned.table.name
            key, join = key_sql(table, "old")
            live = "bool_or(old.added_in <= {0} AND coalesce(old.removed_in > {0}, true))"
            connection.execute(
                f"""
                INSERT INTO sides
                SELECT ?, ?, old.row_id, {live.format(after)}, any_value({key})
                FROM history.{table} AS old {join}
                WHERE {owned.condition} AND (old.added_in > {touched} OR old.removed_in > {touched})
                GROUP BY old.row_id
                HAVING {live.format(after)} <> {live.format(before)}
                """,
                [asset, table],
            )
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE {name} AS
        WITH placed AS (
            SELECT *, row_number() OVER (
                PARTITION BY table_name, key, is_new ORDER BY row_id
            ) AS place
            FROM sides
        )
        SELECT row_number() OVER (ORDER BY table_name, key, place) AS node,
               any_value(asset) AS asset, table_name, key, place,
               any_value(row_id) FILTER (NOT is_new) AS old_id,
               any_value(row_id) FILTER (is_new) AS new_id
        FROM placed GROUP BY table_name, key, place
        """
    )
    connection.execute("DROP TABLE sides")


def link(connection: duckdb.DuckDBPyConnection, name: str) -> None:
    """Make temporary table `links`: `node` -> `parent`, between the changed rows of table `name`.

    A changed row depends on a changed parent that only one of its versions has. Table `ids`
    (`node`, `asset`, `table_name`, `id`, `is_new`) lists the ids of both versions as
    `lineage.parents` has them. Column `model` names the parent's asset where that is another one
    and the parent is a model, and is empty otherwise; `indirect` is false.
    """
    connection.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE ids AS
        SELECT node, asset, table_name, new_id::UUID AS id, true AS is_new FROM {name}
        WHERE new_id IS NOT NULL
        UNION ALL
        SELECT node, asset, table_name, old_id::UUID, false FROM {name} WHERE old_id IS NOT NULL
        """
    )
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE links AS
        WITH dependent AS (
            SELECT child.node, above.node AS parent,
                   any_value(if(above.asset <> child.asset
                                AND above.table_name IN (SELECT unnest(?::VARCHAR[])),
                                above.asset, '')) AS model
            FROM ids AS child
            JOIN lineage.parents AS edge
              ON edge.row_id = child.id AND edge.table_name = child.table_name
            JOIN ids AS above
              ON above.id = edge.parent_id AND above.table_name = edge.parent_table
            WHERE child.node <> above.node
            GROUP BY child.node, above.node, above.id
            HAVING count(DISTINCT child.is_new) = 1
               AND any_value(child.is_new) = any_value(above.is_new)
        )
        SELECT DISTINCT node, parent, model, false AS indirect FROM dependent
        """,
        [list(MODELS)],
    )


def contents(
    connection: duckdb.DuckDBPyConnection, table: str, ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Row id -> payload of the rows of a table, live or not; unknown ids are left out."""
    columns = list(TABLES[table].columns)
    rows = connection.execute(
        f"SELECT DISTINCT ON (row_id) row_id, {', '.join(columns)} FROM history.{table} "
        "WHERE row_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY row_id, added_in",
        [sorted(ids)],
    ).fetchall()
    return {row_id: dict(zip(columns, values, strict=True)) for row_id, *values in rows}


def compared(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The columns in which two versions of a row differ, with their old and new values.

    A row with one version has all its columns; those that name other rows are left out.
    """
    old, new = dict(old or {}), dict(new or {})
    names = [name for name in old | new if name not in REFERENCES]
    if old and new:
        names = [name for name in names if old.get(name) != new.get(name)]
    return (
        {name: old[name] for name in names if name in old},
        {name: new[name] for name in names if name in new},
    )


@dataclass(frozen=True)
class Difference:
    """A name with its old and new value: JSON of config, or a version; None where it was absent."""

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class AssetChange:
    """What differs between two materializations of one asset.

    Attributes:
        before, after: their sequence numbers; None where the asset was not there.
        inputs: upstream assets whose data version differs.
        files: files read whose content hash differs.
        config: dotted names of settings whose value differs.
        code: the revision of the asset's logic, where it differs.
    """

    asset: str
    before: int | None
    after: int | None
    inputs: tuple[Difference, ...] = ()
    files: tuple[Difference, ...] = ()
    config: tuple[Difference, ...] = ()
    code: Difference | None = None

    @property
    def is_first(self) -> bool:
        """Whether the asset exists on one side only: there is nothing to compare."""
        return self.before is None or self.after is None

    @property
    def is_empty(self) -> bool:
        return not (self.is_first or self.inputs or self.files or self.config or self.code)


def compare(timeline: Timeline, asset: str, before: int, after: int) -> AssetChange:
    """The asset's materializations in force at two sequence numbers, compared."""
    old, new = timeline.at(asset, before), timeline.at(asset, after)
    if old is None or new is None:
        return AssetChange(asset, old.sequence if old else None, new.sequence if new else None)
    read = _differences(timeline.inputs[old.sequence], timeline.inputs[new.sequence])
    config = config_differences(
        timeline.configs[old.config_hash], timeline.configs[new.config_hash]
    )
    # The part before the dot stands for logic; config has a hash of its own.
    old_code, new_code = (side.code_version.partition(".")[0] for side in (old, new))
    return AssetChange(
        asset,
        old.sequence,
        new.sequence,
        inputs=tuple(version for version in read if not version.name.startswith(OUTSIDE)),
        files=tuple(
            replace(file, name=file.name.removeprefix(OUTSIDE))
            for file in read
            if file.name.startswith(OUTSIDE)
        ),
        config=tuple(config),
        code=Difference("revision", old_code, new_code) if old_code != new_code else None,
    )


def config_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    """The fields, by dotted name, in which two configs differ."""
    return _differences(dict(_flat(old)), dict(_flat(new)))


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


# Names of config fields in records of earlier versions.
FORMER_NAMES = {
    "salt": "run_seed",
    "base_model.look_back_heads": "base_model.previous_token_heads",
    "judge.own_answers": "judge.on_policy_negatives",
}


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The config's fields by dotted name, as they are named today."""
    for name, value in config.items():
        field_name = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{field_name}.")
        else:
            yield FORMER_NAMES.get(field_name, field_name), value
