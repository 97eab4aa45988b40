"""Where a row came from, or what came of it: every row on the way, and the roles that link them.

The walk goes level by level and reads, of the edges, only those of the tables that the level's rows
are in: edges lie sorted by table, so a long chain through one table never scans the others. How a
trace looks is decided in `lineage/trace_text.py`.

A trace laid out for reading: a tree in which each row is opened once.

A trace is a graph in which most rows are reached in many ways, and one model was trained on
hundreds. The outline opens each row where it is nearest to the row asked for, marks it elsewhere,
and counts large groups of one role instead of listing them. Every way of showing a trace
(`lineage/trace_text.py`) draws this outline.

Which row a person means who types a part of its id.

Ids have 32 hex digits; the first few name a row well enough until two rows begin alike, which is
then said instead of guessed.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import duckdb
import polars as pl

from refine_dagster.errors import RefineError
from refine_dagster.hashing import ID_DIGITS
from refine_dagster.warehouse.table import POLICY_ROUND
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse

SHORTEST = 6
LISTED_ROWS = 5
_HEX = frozenset("0123456789abcdef")


class RowError(RefineError):
    """No row, or more than one, is what was asked for."""


@dataclass(frozen=True)
class RowName:
    """A row, live or removed, of a table and of the asset that commits it there."""

    table: str
    row_id: str
    asset: str


def is_prefix(text: str) -> bool:
    """Whether the text can be the beginning of a row id: 6 to 32 hex digits."""
    return SHORTEST <= len(text) <= ID_DIGITS and set(text.lower()) <= _HEX


def find_row(connection: duckdb.DuckDBPyConnection, text: str) -> RowName:
    """The one row, of any table, live or removed, whose id begins with `text`.

    Raises:
        RowError: the text is no beginning of an id, or no row has it, or several have.
    """
    if not is_prefix(text):
        raise RowError(
            f"{text!r} is no row id",
            fix=f"give the {ID_DIGITS} hex digits of a row_id, or at least its first {SHORTEST}; "
            "`refine-dagster show TABLE` lists them",
        )
    prefix = text.lower()
    # A range and not LIKE: row groups that cannot hold it are then not read. 'g' follows 'f'.
    found = connection.execute(
        "SELECT DISTINCT table_name, row_id, asset FROM lineage.rows "
        "WHERE row_id >= ? AND row_id < ? ORDER BY ALL LIMIT ?",
        [prefix, prefix + "g", LISTED_ROWS + 1],
    ).fetchall()
    if not found:
        raise RowError(
            f"no row, live or removed, has an id that begins with {prefix}",
            fix="`refine-dagster show TABLE` lists the ids of live rows",
        )
    if len(found) > 1:
        listed = "; ".join(f"{table} {row_id}" for table, row_id, _ in found[:LISTED_ROWS])
        more = " and more" if len(found) > LISTED_ROWS else ""
        raise RowError(
            f"several rows have ids that begin with {prefix}: {listed}{more}",
            fix="give more digits",
        )
    return RowName(*found[0])


LABEL_SHOWN = 200

_HASH = "left({}, 12)"
_MODEL = f"arm || ', ' || {_HASH.format('fingerprint')}"
# What a person knows a row by, as SQL over its table; tables with an instruction go by it.
_LABELS: Mapping[str, str] = MappingProxyType(
    {
        "seed_tasks": "seed_id || ': ' || instruction",
        "base_model": f"model || ', ' || {_HASH.format('fingerprint')}",
        "feedback_judge": f"kind || ', ' || {_HASH.format('fingerprint')}",
        "feedback_judge_accuracy": "dimension || ', ' || corruption",
        "feedback_judge_quality": "dimension || ', ' || measure",
        "feedback_judge_calibration": "dimension || ', bin ' || bin",
        "instructor_policy": f"algorithm || ', ' || {_HASH.format('version')}",
        "evolved_instructions": "operation || ', ' || rule || ': ' || instruction",
        "instruction_decisions": "rule || ': ' || instruction",
        "reward_scored_instructions": "rule || ': ' || instruction",
        "base_scored_instructions": "rule || ': ' || instruction",
        "instance_decisions": "rule || ': ' || instruction",
        "rl_policy_checkpoint": f"algorithm || ', ' || preset || ', ' || {_HASH.format('policy')}",
        "fine_tuned_model": _MODEL,
        "baseline_model": _MODEL,
        "evaluation_report": "arm || ' on ' || task",
        "evaluation_comparisons": "arm || ' against ' || against",
        "evaluation_predictions": "arm || ' on ' || task || ', instance ' || instance",
        "privacy_report": "arm || ', ' || control || ', ' || attack",
        "privacy_audits": "arm || ', ' || control",
        "privacy_scores": "arm || ': ' || instruction",
        "exports": "format || ': ' || path",
    }
)


@dataclass(frozen=True)
class Trace:
    """A row with everything it descends from, or everything that descends from it.

    Attributes:
        asked: the row asked for; it is the first of `rows`.
        down: whether the trace goes to descendants.
        rows: one line for each row, nearest first: `place` (from 0), `table`, `row_id`, `depth`
            (edges of the shortest way), `label`, `note` (the completion behind the row: its role
            and model), `added_in`, `removed_in` (null of a live row). `added_in` is null where
            history no longer has the row.
        edges: one line for each edge between them: `child` and `parent` (places), `role`.
        completion: the model call behind the row asked for: `key`, `role`, `model`, `prompt`,
            `sampling` (a dict), `seed`, `text`, `finish_reason`; None where there is none.
    """

    asked: RowName
    down: bool
    rows: pl.DataFrame
    edges: pl.DataFrame
    completion: dict[str, Any] | None


def trace(warehouse: Warehouse, row_id: str, *, down: bool = False) -> Trace:
    """The trace of one row, live or removed.

    Args:
        row_id: its id, or the first 6 or more digits of it.
        down: to descendants instead of ancestors.

    Raises:
        RowError: no row, or more than one, has such an id.
    """
    with warehouse.connect() as connection:
        asked = find_row(connection, row_id)
        _walk(connection, asked, down=down)
        return Trace(
            asked=asked,
            down=down,
            rows=_rows(connection),
            edges=_edges(connection),
            completion=_completion(connection, asked),
        )


def _walk(connection: duckdb.DuckDBPyConnection, asked: RowName, *, down: bool) -> None:
    """Fill temporary tables: `walked` (each row once, with its depth) and `walked_edges`."""
    near, far_table, far = (
        ("parent_id", "table_name", "row_id") if down else ("row_id", "parent_table", "parent_id")
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE walked AS "
        "SELECT ?::VARCHAR AS table_name, ?::UUID AS id, 0 AS depth",
        [asked.table, asked.row_id],
    )
    connection.execute(
        "CREATE OR REPLACE TEMP TABLE walked_edges AS FROM lineage.parents WITH NO DATA"
    )
    depth = 0
    while True:
        reached = connection.execute(
            "SELECT DISTINCT table_name FROM walked WHERE depth = ? ORDER BY ALL", [depth]
        ).fetchall()
        if not reached:
            return
        here = f"table_name IN ({', '.join(repr(str(name)) for (name,) in reached)})"
        connection.execute(
            f"""
            CREATE OR REPLACE TEMP TABLE step AS
            FROM lineage.parents
            WHERE {"true" if down else here}
              AND {near} IN (SELECT id FROM walked WHERE depth = {depth})
            """
        )
        connection.execute("INSERT INTO walked_edges FROM step")
        depth += 1
        connection.execute(
            f"""
            INSERT INTO walked
            SELECT DISTINCT {far_table}, {far}, {depth} FROM step
            WHERE {far} NOT IN (SELECT id FROM walked)
            """
        )


def _rows(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    connection.execute(
        """
        CREATE OR REPLACE TEMP TABLE placed AS
        SELECT (row_number() OVER (ORDER BY depth, table_name, id) - 1)::INTEGER AS place,
               table_name, id, replace(id::VARCHAR, '-', '') AS row_id, depth
        FROM walked
        """
    )
    reached = connection.execute("SELECT DISTINCT table_name FROM placed ORDER BY ALL").fetchall()
    # A row that was removed and came back has two lives in history: it is told as one.
    described = " UNION ALL ".join(
        f"""
        SELECT place, any_value({_label(name)}) AS label, any_value({_key(name)}) AS key,
               min(added_in) AS added_in,
               CASE WHEN count(removed_in) = count(*) THEN max(removed_in) END AS removed_in
        FROM history.{name} JOIN placed USING (row_id) WHERE table_name = '{name}' GROUP BY place
        """
        for (name,) in reached
        if name in TABLES
    )
    return connection.sql(
        f"""
        SELECT place, table_name AS "table", row_id, depth, left(label, {LABEL_SHOWN}) AS label,
               role || ' by ' || left(model, 12) AS note,
               added_in, removed_in
        FROM placed LEFT JOIN ({described}) USING (place)
        LEFT JOIN store.completions USING (key)
        ORDER BY place
        """
    ).pl()


def _label(table: str) -> str:
    columns = TABLES[table].columns
    label = _LABELS.get(table)
    if label is None and "instruction" in columns:
        label = "instruction"
    if label is None:
        arm = "arm || ', ' || " if "arm" in columns else ""
        label = f"{arm}'step ' || step" if "step" in columns else "row_id"
    if TABLES[table].rounds_from is None:
        return label
    return f"if({POLICY_ROUND} > 1, 'round ' || {POLICY_ROUND} || ', ', '') || {label}"


def _key(table: str) -> str:
    return "completion_key" if "completion_key" in TABLES[table].columns else "NULL::VARCHAR"


def _edges(connection: duckdb.DuckDBPyConnection) -> pl.DataFrame:
    return connection.sql(
        """
        SELECT child.place AS child, parent.place AS parent, role
        FROM walked_edges AS edge
        JOIN placed AS child ON child.id = edge.row_id
        JOIN placed AS parent ON parent.id = edge.parent_id
        ORDER BY ALL
        """
    ).pl()


def _completion(connection: duckdb.DuckDBPyConnection, asked: RowName) -> dict[str, Any] | None:
    if asked.table not in TABLES or "completion_key" not in TABLES[asked.table].columns:
        return None
    found = connection.sql(
        f"""
        SELECT key, role, model, prompt, sampling, seed, text, finish_reason
        FROM store.completions
        WHERE key IN (SELECT completion_key FROM history.{asked.table} WHERE row_id = ?)
        """,
        params=[asked.row_id],
    ).pl()
    if found.is_empty():
        return None
    record = found.row(0, named=True)
    return {**record, "sampling": json.loads(record["sampling"])}


# Rows of one role that are listed. A prompt shows about eight demonstrations, and people ask for
# which; many rows of another role are a training set.
LISTED = {"demonstration": 8}
LISTED_OTHERWISE = 3
# Rows opened before the rest is only counted: some screens' worth.
OPENED = 40
# The order in which a row's parents are told; other roles follow by name.
_ROLES = (
    *("instruction", "decision", "candidate", "exported", "policy", "generator", "model"),
    *("base", "backbone", "judge", "demonstration", "trained_on", "measured_on", "nearest"),
)


@dataclass(frozen=True)
class Shown:
    """A row of the trace as it is told."""

    place: int
    table: str
    row_id: str
    label: str
    note: str | None
    added_in: int | None
    removed_in: int | None

    @property
    def state(self) -> str | None:
        """What is to be said of a row that is not live; None of a live one."""
        if self.added_in is None:
            return "no longer in history"
        return None if self.removed_in is None else f"removed in {self.removed_in}"


@dataclass
class Branch:
    """A row, or a counted group of rows, in its role to the row above it.

    Attributes:
        role: its role; empty of the row asked for.
        row: the row; None of a group.
        table: the table of the row or of the group's rows.
        count: rows in a group; 1 of a row.
        again: what follows the row is told in another place.
        unopened: how many rows would follow, were they not only counted.
        branches: what follows.
    """

    role: str
    row: Shown | None
    table: str
    count: int = 1
    again: bool = False
    unopened: int = 0
    branches: list[Branch] = field(default_factory=list)


def outline(trace: Trace, *, everything: bool = False) -> Branch:
    """The tree of a trace.

    Args:
        everything: list every group and open every row.
    """
    near, far = ("parent", "child") if trace.down else ("child", "parent")
    edges = trace.edges.select(near=near, far=far, role="role")
    root = _branch("", _shown(trace, 0))
    opened, repeats = {0: root}, list[Branch]()
    level, budget = [root], None if everything else OPENED
    while level:
        places = [branch.row.place for branch in level if branch.row]
        groups = _groups(trace, edges, places, everything=everything)
        following: list[Branch] = []
        for branch in level:
            assert branch.row is not None
            found = groups.get(branch.row.place, [])
            if budget is not None and budget <= 0:
                branch.unopened = sum(group.count for group in found)
                continue
            if budget is not None and found:
                budget -= 1
            for group in found:
                if group.places is None:
                    branch.branches.append(Branch(group.role, None, group.table, group.count))
                    continue
                for place in group.places:
                    one = _branch(group.role, _shown(trace, place))
                    branch.branches.append(one)
                    if place in opened:
                        repeats.append(one)
                    else:
                        opened[place] = one
                        following.append(one)
        level = following
    for one in repeats:
        assert one.row is not None
        first = opened[one.row.place]
        one.again = bool(first.branches or first.unopened)
    return root


@dataclass(frozen=True)
class _Group:
    role: str
    table: str
    count: int
    places: list[int] | None


def _groups(
    trace: Trace, edges: pl.DataFrame, places: list[int], *, everything: bool
) -> dict[int, list[_Group]]:
    """For each place, what follows it by role and table; places are None where it is too much."""
    tables = trace.rows.select(far="place", table="table")
    found = (
        edges.join(pl.DataFrame({"near": places}, schema={"near": pl.Int32}), on="near", how="semi")
        .join(tables, on="far")
        .group_by("near", "role", "table")
        .agg(
            pl.len().alias("count"),
            pl.col("far").sort() if everything else pl.col("far").sort().head(max(LISTED.values())),
        )
    )
    groups: defaultdict[int, list[_Group]] = defaultdict(list)
    for near, role, table, count, far in found.rows():
        listed = everything or count <= LISTED.get(role, LISTED_OTHERWISE)
        groups[near].append(_Group(role, table, count, far if listed else None))
    for one in groups.values():
        one.sort(key=lambda group: (_rank(group.role), group.role, group.table))
    return groups


def _rank(role: str) -> int:
    return _ROLES.index(role) if role in _ROLES else len(_ROLES)


def _shown(trace: Trace, place: int) -> Shown:
    row = trace.rows.row(place, named=True)
    return Shown(
        place=place,
        table=row["table"],
        row_id=row["row_id"],
        label=" ".join((row["label"] or "").split()),
        note=row["note"],
        added_in=row["added_in"],
        removed_in=row["removed_in"],
    )


def _branch(role: str, row: Shown) -> Branch:
    return Branch(role, row, row.table)
