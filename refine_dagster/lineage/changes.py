"""Causes: the first things to differ, from which every other changed row follows.

Rows form a graph by their parents. Between two states, a changed row either hangs on changed
parents (its own change follows from theirs) or on none; those are where change begins. A row that
is made from nothing else, such as a seed, is then a cause itself. For any other the cause is what
its asset read besides: a config field, a revision of its code, a file. If none of these differs
either, the asset's inputs decided as a whole (a loop that ran longer, a scale over all rows): the
causes of their changes are the row's, named as indirect. A cause that reaches a row only because a
model learnt from it is named with that model.

A cause of change and its way to a row, as commands name them.

Rows that differ between two states, old and new version side by side, and what they hang on.

Everything here is one SQL statement for each table, over the rows that changed and nothing else.

What differs between two materializations of one asset: inputs, files, config, code.

The order of materializations, and which past states of two assets belong together.

A materialization compares with the one before it of the same asset, and its inputs with what that
one had read. `Window` holds, for each asset, the two states to compare: rows live after sequence
`before` against rows live after sequence `after`.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import duckdb

from refine_dagster.config.policy_round import name_sql
from refine_dagster.warehouse.ledger import MIGRATION
from refine_dagster.warehouse.tables import REFERENCES, TABLES, key_sql, slice_of, tables_of
from refine_dagster.warehouse.warehouse import OUTSIDE

Kind = Literal["row", "rows", "config", "code", "file", "first", "unknown"]
SEEDS = "seed_tasks"


@dataclass(frozen=True)
class Cause:
    """Where a change begins.

    Attributes:
        kind: `row` (added, edited or removed), `rows` (many such), `config`, `code`, `file`,
            `first` (the asset was not there on one side) or `unknown` (the ledger has no reason).
        asset: the asset in which it begins.
        name: natural key of a row, name of a config field or file; empty otherwise.
        change: `added`, `edited` or `removed` of a row; `added` or `removed` of an asset that is
            there on one side only; `changed` of anything else.
        old: the columns that differ, or {`value`: ...} of a config field, revision or file hash.
        new: the same of the new state.
        old_id: the row replaced or removed; None where there is none.
        new_id: the row added; None where there is none.
        count: how many rows it stands for.
    """

    kind: Kind
    asset: str
    name: str = ""
    change: str = "changed"
    old: Mapping[str, Any] = field(default_factory=dict)
    new: Mapping[str, Any] = field(default_factory=dict)
    old_id: str | None = None
    new_id: str | None = None
    count: int = 1

    @property
    def label(self) -> str:
        """A few words that name the cause."""
        match self.kind:
            case "row":
                noun = f"seed {self.name}" if self.asset == SEEDS else f"{self.asset} {self.name}"
                return f"{noun.strip()} {self.change}"
            case "rows":
                noun = "seeds" if self.asset == SEEDS else f"rows of {self.asset}"
                return f"{self.count} {noun} {self.change}"
            case "config":
                return f"config {self.name}: {self.old['value']} → {self.new['value']}"
            case "code":
                values = f"revision {self.old['value']} → {self.new['value']}"
                return f"code of {self.asset}: {values}"
            case "file":
                return f"file {self.name} of {self.asset} changed"
            case "first":
                made = "made from nothing" if self.change == "added" else "not made yet"
                return f"{self.asset} {made}"
            case "unknown":
                return f"nothing that the ledger records for {self.asset}"


@dataclass(frozen=True)
class Reason:
    """How a cause reaches a row.

    Attributes:
        cause: where the change begins.
        through: the models that carry it, where no other way leads to the row.
        indirect: whether no chain of parents leads to the row at all.
    """

    cause: Cause
    through: tuple[str, ...]
    indirect: bool

    @property
    def label(self) -> str:
        """The cause in a few words, and its way."""
        return self.cause.label + way(self.through, self.indirect)


def way(through: Sequence[str], indirect: bool) -> str:
    """How causes reach rows, as words after their names."""
    models = f", through {' and '.join(through)}" if through else ""
    return models + (", indirectly" if indirect else "")


@dataclass(frozen=True)
class Window:
    """Asset -> the sequence numbers whose states are compared; 0 is before anything was made."""

    before: Mapping[str, int]
    after: Mapping[str, int]

    def reversed(self) -> Window:
        """The same states compared the other way round."""
        return Window(before=self.after, after=self.before)


@dataclass(frozen=True)
class Materialization:
    """What the ledger says of one materialization, as far as comparing needs it."""

    sequence: int
    asset: str
    run_id: str
    data_version: str
    code_version: str
    config_hash: str
    finished_at: str


class Timeline:
    """All materializations of a warehouse, by sequence number."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.all: dict[int, Materialization] = {
            row[0]: Materialization(*row)
            for row in connection.execute(
                "SELECT sequence, asset, run_id, data_version, code_version, config_hash, "
                "finished_at FROM lineage.materializations ORDER BY sequence"
            ).fetchall()
        }
        self.inputs: defaultdict[int, dict[str, str]] = defaultdict(dict)
        for sequence, asset, version in connection.execute(
            "SELECT sequence, asset, data_version FROM lineage.inputs ORDER BY ALL"
        ).fetchall():
            self.inputs[sequence][asset] = version
        self._translate_rewritten()
        self.configs: dict[str, dict[str, Any]] = {
            name: json.loads(config)
            for name, config in connection.execute("SELECT * FROM lineage.configs").fetchall()
        }
        self._of: defaultdict[str, list[int]] = defaultdict(list)
        for one in self.all.values():
            self._of[one.asset].append(one.sequence)
        self._parents = _parent_assets(connection)

    def _translate_rewritten(self) -> None:
        """Name the content that migrations stored in another form by its new data versions."""
        last: dict[str, Materialization] = {}
        renamed: dict[tuple[str, str], str] = {}
        for one in self.all.values():
            if one.run_id.startswith(MIGRATION) and tables_of(one.asset):
                renamed[one.asset, last[one.asset].data_version] = one.data_version
            last[one.asset] = one
        for sequence, one in self.all.items():
            version = renamed.get((one.asset, one.data_version), one.data_version)
            self.all[sequence] = replace(one, data_version=version)
        for read in self.inputs.values():
            for asset, version in read.items():
                read[asset] = renamed.get((asset, version), version)

    def assets(self) -> list[str]:
        """Assets that were ever materialised, in the order of their first materialization."""
        return list(self._of)

    def at(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's last materialization up to and including `sequence`."""
        made = self._of.get(asset, [])
        place = bisect_right(made, sequence)
        return self.all[made[place - 1]] if place else None

    def next(self, asset: str, sequence: int) -> Materialization | None:
        """The asset's first materialization after `sequence`."""
        made = self._of.get(asset, [])
        place = bisect_right(made, sequence)
        return self.all[made[place]] if place < len(made) else None

    def last_change(self, asset: str) -> Materialization:
        """The last materialization of an asset that left other content than the one before it."""
        made = [self.all[sequence] for sequence in self._of[asset]]
        for previous, one in zip(reversed(made[:-1]), reversed(made[1:]), strict=True):
            if previous.data_version != one.data_version:
                return one
        return made[0]

    def window_of(self, sequence: int) -> Window:
        """What a materialization saw, against what the asset's previous one saw."""
        asset = self.all[sequence].asset
        previous = self.at(asset, sequence - 1)
        start = previous.sequence if previous else 0
        return self._with_sources({asset: start}, {asset: sequence}, sequence)

    def window_between(self, before: int, after: int) -> Window:
        """The states after two materializations, the earlier one first, sources included.

        An asset that was made anew in between compares with what it had read before, which may be
        older than `before`.
        """
        assets = self.assets()
        return self._with_sources(
            dict.fromkeys(assets, before), dict.fromkeys(assets, after), after
        )

    def _with_sources(self, before: dict[str, int], after: dict[str, int], end: int) -> Window:
        waiting = list(before)
        while waiting:
            asset = waiting.pop()
            start = self._changed_since(asset, before[asset], after[asset])
            for source in self._sources(asset, end) if start else ():
                if source in before and not self._differs(source, start, before[source]):
                    continue
                before[source] = min(before.get(source, end), start)
                after.setdefault(source, end)
                waiting.append(source)
        for asset in list(before):
            start = self._changed_since(asset, before[asset], after[asset])
            for loop in self._loops(asset, end) if start else ():
                self._add_loop(asset, loop, start, before, after)
        return Window(before, after)

    def _add_loop(
        self, asset: str, loop: str, start: int, before: dict[str, int], after: dict[str, int]
    ) -> None:
        """Rows of a later asset that the rows name as parents: those made right after them."""
        now = self.at(asset, after[asset])
        last = now.sequence if now else start
        first = self.next(loop, start)
        if first is None or first.sequence > last:
            first = self.at(loop, last)
        following = self.next(loop, last)
        before[loop] = max(before.get(loop, 0), first.sequence if first else 0)
        after[loop] = max(after.get(loop, 0), following.sequence if following else last)

    def _changed_since(self, asset: str, before: int, after: int) -> int:
        """Where the state before was made; 0 if there was none or it is as it was."""
        old, new = self.at(asset, before), self.at(asset, after)
        if old is None or new is None or old.data_version == new.data_version:
            return 0
        return old.sequence

    def _differs(self, asset: str, sequence: int, later: int) -> bool:
        """Whether the asset changed between two sequence numbers, the smaller one first."""
        if later <= sequence:
            return False
        old, new = self.at(asset, sequence), self.at(asset, later)
        return (old and old.data_version) != (new and new.data_version)

    def _sources(self, asset: str, end: int) -> list[str]:
        made = self.at(asset, end)
        read = self.inputs[made.sequence] if made else {}
        return [name for name in read if not name.startswith(OUTSIDE)]

    def _upstream(self, asset: str, end: int) -> set[str]:
        found: set[str] = set()
        waiting = [asset]
        while waiting:
            fresh = set(self._sources(waiting.pop(), end)) - found
            found |= fresh
            waiting += fresh
        return found

    def _loops(self, asset: str, end: int) -> set[str]:
        """Assets made from this one whose rows are among its rows' parents all the same."""
        found: set[str] = set()
        waiting = [asset]
        while waiting:
            fresh = self._parents[waiting.pop()] - found
            found |= fresh
            waiting += fresh
        return {one for one in found - {asset} if asset in self._upstream(one, end)}


def _parent_assets(connection: duckdb.DuckDBPyConnection) -> defaultdict[str, set[str]]:
    found: defaultdict[str, set[str]] = defaultdict(set)
    for child, parent in connection.execute(
        f"SELECT DISTINCT {name_sql('table_name', 'policy_round')}, "
        f"{name_sql('parent_table', 'parent_round')} FROM lineage.parents"
    ).fetchall():
        found[slice_of(child).asset].add(slice_of(parent).asset)
    return found


def collect(connection: duckdb.DuckDBPyConnection, name: str, window: Window) -> None:
    """Make temporary table `name`: every place whose row differs between a window's two states.

    Columns: `node` (a number), `asset`, `table_name`, `key` (natural key), `place` (counts rows
    that share a key, from 1), `old_id` and `new_id` (null where there is no such row).
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
            key, join = key_sql(table, "one")
            connection.execute(
                f"""
                INSERT INTO sides
                SELECT ?, ?, one.row_id, bool_or({_live("one", after)}), any_value({key})
                FROM history.{table} AS one {join}
                WHERE {owned.condition} AND (one.added_in > {touched} OR one.removed_in > {touched})
                GROUP BY one.row_id
                HAVING bool_or({_live("one", after)}) <> bool_or({_live("one", before)})
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


def link(connection: duckdb.DuckDBPyConnection, name: str, models: Collection[str]) -> None:
    """Make temporary table `links`: `node` -> `parent`, between the changed rows of table `name`.

    A changed row hangs on a changed parent that its new version has and its old one had not, or the
    other way round. Table `ids` (`node`, `asset`, `table_name`, `id`, `is_new`) lists the ids of
    both as `lineage.parents` has them. Column `model` names the parent's asset where it is another
    one and its table is one of `models`, and is empty otherwise; `indirect` is false.
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
        WITH hung AS (
            SELECT one.node, above.node AS parent,
                   any_value(if(above.asset <> one.asset
                                AND above.table_name IN (SELECT unnest(?::VARCHAR[])),
                                above.asset, '')) AS model
            FROM ids AS one
            JOIN lineage.parents AS edge
              ON edge.row_id = one.id AND edge.table_name = one.table_name
            JOIN ids AS above
              ON above.id = edge.parent_id AND above.table_name = edge.parent_table
            WHERE one.node <> above.node
            GROUP BY one.node, above.node, above.id
            HAVING count(DISTINCT one.is_new) = 1
               AND any_value(one.is_new) = any_value(above.is_new)
        )
        SELECT DISTINCT node, parent, model, false AS indirect FROM hung
        """,
        [list(models)],
    )


def contents(
    connection: duckdb.DuckDBPyConnection, table: str, ids: Collection[str]
) -> dict[str, dict[str, Any]]:
    """Row id -> payload of the rows of a table, live or not; unknown ids are left out."""
    columns = list(TABLES[table].columns)
    found = connection.execute(
        f"SELECT DISTINCT ON (row_id) row_id, {', '.join(columns)} FROM history.{table} "
        "WHERE row_id IN (SELECT unnest(?::VARCHAR[])) ORDER BY row_id, added_in",
        [sorted(ids)],
    ).fetchall()
    return {row[0]: dict(zip(columns, row[1:], strict=True)) for row in found}


def compared(
    old: Mapping[str, Any] | None, new: Mapping[str, Any] | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is worth showing of two versions of a row: the columns that differ, with their values.

    A row that has one version only is shown whole; columns that name other rows are left out.
    """
    old, new = dict(old or {}), dict(new or {})
    names = [name for name in old | new if name not in REFERENCES]
    if old and new:
        names = [name for name in names if old.get(name) != new.get(name)]
    return (
        {name: old[name] for name in names if name in old},
        {name: new[name] for name in names if name in new},
    )


def _live(source: str, sequence: int) -> str:
    return (
        f"({source}.added_in <= {sequence} "
        f"AND ({source}.removed_in IS NULL OR {source}.removed_in > {sequence}))"
    )


@dataclass(frozen=True)
class Difference:
    """One named thing with its old and new value; None where it was not there.

    Values are JSON values of config, or versions as hex digits.
    """

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class AssetChange:
    """Two materializations of one asset compared; either may be missing.

    Attributes:
        before: the sequence number compared with; None if the asset was not there.
        after: the sequence number compared; None likewise.
        inputs: upstream assets whose data version differs.
        files: what else was read, where its content hash differs.
        config: dotted names of settings whose value differs; `run seed` is one.
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
        """Whether nothing differs."""
        return not (self.is_first or self.inputs or self.files or self.config or self.code)


def compare(timeline: Timeline, asset: str, before: int, after: int) -> AssetChange:
    """The asset's materializations in force at two sequence numbers, compared."""
    old, new = timeline.at(asset, before), timeline.at(asset, after)
    if old is None or new is None:
        return AssetChange(asset, old.sequence if old else None, new.sequence if new else None)
    read = _differences(timeline.inputs[old.sequence], timeline.inputs[new.sequence])
    config = _differences(
        dict(_flat(timeline.configs[old.config_hash])),
        dict(_flat(timeline.configs[new.config_hash])),
    )
    code = Difference("revision", _revision(old), _revision(new))
    return AssetChange(
        asset,
        old.sequence,
        new.sequence,
        inputs=tuple(one for one in read if not one.name.startswith(OUTSIDE)),
        files=tuple(
            Difference(one.name.removeprefix(OUTSIDE), one.old, one.new)
            for one in read
            if one.name.startswith(OUTSIDE)
        ),
        config=tuple(config),
        code=code if code.old != code.new else None,
    )


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
    """The config's fields by dotted name, each under the name that it has today."""
    for name, value in config.items():
        field_name = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flat(value, f"{field_name}.")
        else:
            yield FORMER_NAMES.get(field_name, field_name), value


def _revision(one: Materialization) -> str:
    """The part of a code version that speaks of logic; the config behind it have their own hash."""
    return one.code_version.partition(".")[0]


# Above so many rows of one table with the same kind of change, they are one cause.
MANY = 40
RUN_SEED = "run_seed"
# Tables of trained things: what they learnt from reaches everything that they write.
MODELS = tuple(name for name, table in TABLES.items() if "checkpoint_hash" in table.columns)


class Causes:
    """The causes of everything that differs between a window's two states.

    Temporary tables hold the answer for SQL, as long as the connection lives: `changed`
    (`changed_rows.collect`) and `reasons` (`node`, `cause`, `through`, `indirect`).

    Attributes:
        known: number of a cause, as in `reasons` -> the cause.
        assets: asset -> what differs between its two materializations.
    """

    def __init__(
        self, connection: duckdb.DuckDBPyConnection, timeline: Timeline, window: Window
    ) -> None:
        self.connection = connection
        self.known: dict[int, Cause] = {}
        collect(connection, "changed", window)
        link(connection, "changed", MODELS)
        self.assets = {
            asset: compare(timeline, asset, window.before[asset], window.after[asset])
            for (asset,) in connection.execute(
                "SELECT DISTINCT asset FROM changed ORDER BY asset"
            ).fetchall()
        }
        connection.execute("CREATE OR REPLACE TEMP TABLE own (node BIGINT, cause BIGINT)")
        self._find_beginnings()
        for place, (asset, change) in enumerate(self.assets.items(), 1):
            self._assign(asset, change, whole=-place)
        self._propagate()

    def of_node(self, node: int) -> tuple[Reason, ...]:
        """The reasons of one changed row, the direct ones first."""
        found = self.connection.execute(
            "SELECT cause, through, indirect FROM reasons WHERE node = ? "
            "ORDER BY indirect, len(through), cause",
            [node],
        ).fetchall()
        return tuple(
            Reason(self.known[cause], tuple(through), indirect)
            for cause, through, indirect in found
        )

    def _find_beginnings(self) -> None:
        """Changed rows that hang on no changed row, and whether they have parents at all."""
        self.connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE beginnings AS
            SELECT node, asset, parented.node IS NULL AS is_source
            FROM (FROM changed ANTI JOIN links USING (node))
            LEFT JOIN (
                SELECT DISTINCT node FROM ids
                SEMI JOIN lineage.parents AS edge
                  ON edge.row_id = ids.id AND edge.table_name = ids.table_name
            ) AS parented USING (node)
            """
        )

    def _assign(self, asset: str, change: AssetChange, whole: int) -> None:
        """Give the asset's beginnings their own causes; `whole` stands for its inputs together."""
        everything = f"SELECT node FROM changed WHERE asset = '{asset}'"
        if change.is_first:
            made = "added" if change.before is None else "removed"
            self._own(everything, [Cause("first", asset, change=made)])
            self.connection.execute(f"DELETE FROM links WHERE node IN ({everything})")
            return
        code = [_valued("code", asset, change.code)] if change.code else []
        config = [_valued("config", asset, one) for one in change.config]
        files = [_valued("file", asset, one) for one in change.files]
        chosen = [one for one in config if one.name != RUN_SEED]
        begun = f"SELECT node FROM beginnings WHERE asset = '{asset}'"
        if chosen or code:
            self._own(f"{begun} AND is_source", chosen + code)
        else:
            self._own_rows(asset)
        if config or code:
            self._own(f"{begun} AND NOT is_source", config + code)
            listed = ", ".join(f"'{name}'" for name in MODELS)
            self._own(
                f"{everything} AND table_name IN ({listed}) AND node NOT IN ({begun})",
                config + code,
            )
        elif files:
            self._own(f"{begun} AND NOT is_source", files)
        else:
            read = ", ".join(f"'{one.name}'" for one in change.inputs) or "''"
            self.connection.execute(
                f"""
                INSERT INTO links
                SELECT node, {whole}, '', true FROM ({begun} AND NOT is_source)
                UNION ALL SELECT {whole}, node, '', true FROM changed WHERE asset IN ({read})
                """
            )

    def _own(self, nodes: str, causes: list[Cause]) -> None:
        for cause in causes:
            number = self._number(cause)
            self.connection.execute(f"INSERT INTO own SELECT node, {number} FROM ({nodes})")

    def _own_rows(self, asset: str) -> None:
        """Each source row of an asset is its own cause; very many of one kind are one."""
        found = self.connection.execute(
            "SELECT table_name, key, old_id, new_id, node FROM changed "
            "SEMI JOIN (FROM beginnings WHERE is_source AND asset = ?) USING (node) ORDER BY ALL",
            [asset],
        ).fetchall()
        kinds: defaultdict[tuple[str, str], list[tuple[str, str | None, str | None, int]]]
        kinds = defaultdict(list)
        for table, key, old_id, new_id, node in found:
            change = "added" if old_id is None else "removed" if new_id is None else "edited"
            kinds[table, change].append((key, old_id, new_id, node))
        given: list[tuple[int, int]] = []
        for (table, change), rows in kinds.items():
            if len(rows) > MANY:
                number = self._number(Cause("rows", table, change=change, count=len(rows)))
                given += [(node, number) for *_, node in rows]
                continue
            ids = {one for _, old_id, new_id, _ in rows for one in (old_id, new_id) if one}
            payload = contents(self.connection, table, ids)
            for key, old_id, new_id, node in rows:
                old, new = compared(payload.get(old_id or ""), payload.get(new_id or ""))
                cause = Cause("row", table, key, change, old, new, old_id, new_id)
                given.append((node, self._number(cause)))
        if given:
            self.connection.executemany("INSERT INTO own VALUES (?, ?)", given)

    def _number(self, cause: Cause) -> int:
        """The cause's number; a config field that several assets read is one cause."""
        for number, known in self.known.items():
            same = (known.kind, known.name) == (cause.kind, cause.name)
            if cause.kind == "config" and same and (known.old, known.new) == (cause.old, cause.new):
                return number
        self.known[len(self.known) + 1] = cause
        return len(self.known)

    def _propagate(self) -> None:
        """Carry causes from changed rows to the rows that hang on them; none is left without."""
        self.connection.execute(
            """
            CREATE OR REPLACE TEMP TABLE reasons AS
            WITH RECURSIVE reached AS (
                SELECT node, cause, '' AS model, false AS indirect FROM own
                UNION
                SELECT links.node, reached.cause,
                       if(reached.model = '', links.model, reached.model),
                       reached.indirect OR links.indirect
                FROM reached JOIN links ON links.parent = reached.node
            ),
            nearest AS (
                SELECT * FROM reached WHERE node > 0
                QUALIFY indirect = bool_and(indirect) OVER (PARTITION BY node, cause)
            )
            SELECT node, cause, any_value(indirect) AS indirect,
                   if(bool_or(model = ''), [], list(DISTINCT model ORDER BY model)) AS through
            FROM nearest GROUP BY node, cause
            """
        )
        for (asset,) in self.connection.execute(
            "SELECT DISTINCT asset FROM changed ANTI JOIN reasons USING (node) ORDER BY asset"
        ).fetchall():
            number = self._number(Cause("unknown", asset))
            self.connection.execute(
                f"INSERT INTO reasons SELECT node, {number}, true, [] "
                f"FROM changed ANTI JOIN reasons USING (node) WHERE asset = '{asset}'"
            )


def _valued(kind: Kind, asset: str, one: Difference) -> Cause:
    return Cause(kind, asset, one.name, old={"value": one.old}, new={"value": one.new})
