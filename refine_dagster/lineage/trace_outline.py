"""A trace laid out for reading: a tree in which each row is opened once.

A trace is a graph in which most rows are reached in many ways, and one model was trained on
hundreds. The outline opens each row where it is nearest to the row asked for, marks it elsewhere,
and counts large groups of one role instead of listing them. Every way of showing a trace
(`lineage/trace_text.py`) draws this outline.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import polars as pl

from refine_dagster.lineage.trace import Trace

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
