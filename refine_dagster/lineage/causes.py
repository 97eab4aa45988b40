"""Causes: the first things to differ, from which every other changed row follows.

Rows form a graph by their parents. Between two states, a changed row either hangs on changed
parents (its own change follows from theirs) or on none; those are where change begins. A row that
is made from nothing else, such as a seed, is then a cause itself. For any other the cause is what
its asset read besides: a knob, a revision of its code, a file. If none of these differs either, the
asset's inputs decided as a whole (a loop that ran longer, a scale over all rows): the causes of
their changes are the row's, named as indirect. A cause that reaches a row only because a model
learnt from it is named with that model.
"""

from __future__ import annotations

from collections import defaultdict

import duckdb

from refine_dagster.lineage.asset_change import AssetChange, Difference, compare
from refine_dagster.lineage.cause import Cause, Kind, Reason
from refine_dagster.lineage.changed_rows import collect, compared, contents, link
from refine_dagster.lineage.tables import TABLES
from refine_dagster.lineage.timeline import Timeline, Window

# Above so many rows of one table with the same kind of change, they are one cause.
MANY = 40
SALT = "salt"
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
        knobs = [_valued("knob", asset, one) for one in change.knobs]
        files = [_valued("file", asset, one) for one in change.files]
        chosen = [one for one in knobs if one.name != SALT]
        begun = f"SELECT node FROM beginnings WHERE asset = '{asset}'"
        if chosen or code:
            self._own(f"{begun} AND is_source", chosen + code)
        else:
            self._own_rows(asset)
        if knobs or code:
            self._own(f"{begun} AND NOT is_source", knobs + code)
            listed = ", ".join(f"'{name}'" for name in MODELS)
            self._own(
                f"{everything} AND table_name IN ({listed}) AND node NOT IN ({begun})", knobs + code
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
        """The cause's number; a knob that several assets read is one cause."""
        for number, known in self.known.items():
            same = (known.kind, known.name) == (cause.kind, cause.name)
            if cause.kind == "knob" and same and (known.old, known.new) == (cause.old, cause.new):
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
