"""A trace to read: a tree for the terminal, a list for the UI, a picture, or JSON.

A trace is a graph in which most rows are reached in many ways, and one model was trained on
hundreds. The outline is a tree: it opens each row where it is nearest to the row asked for, marks
it elsewhere, and counts large groups of one role instead of listing them. Every text but JSON draws
this outline. In pictures, arrows go from what was used to what was made from it, whichever way the
trace walks; boxes of removed rows are dashed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import polars as pl
from rich.text import Text
from rich.tree import Tree

from refine_dagster.lineage.trace import Trace

# Rows of one role that are listed. A prompt shows about eight demonstrations, and people ask which;
# many rows of another role are a training set.
LISTED = {"demonstration": 8}
LISTED_OTHERWISE = 3
# Rows opened before the rest is only counted: some screens' worth.
OPENED = 40
# The order of a row's parents; other roles follow by name.
_ROLES = (
    *("instruction", "decision", "candidate", "exported", "policy", "generator", "model"),
    *("base", "backbone", "judge", "demonstration", "trained_on", "measured_on", "nearest"),
)


@dataclass(frozen=True)
class Shown:
    """A row of the trace."""

    place: int
    table: str
    row_id: str
    label: str
    note: str | None
    added_in: int | None
    removed_in: int | None

    @property
    def state(self) -> str | None:
        """What became of a row that is not live; None for a live one."""
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
        again: whether the rows below it are shown elsewhere.
        unopened: number of rows below it that are only counted.
        branches: the rows and groups below it.
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
                    below = _branch(group.role, _shown(trace, place))
                    branch.branches.append(below)
                    if place in opened:
                        repeats.append(below)
                    else:
                        opened[place] = below
                        following.append(below)
        level = following
    for below in repeats:
        assert below.row is not None
        first = opened[below.row.place]
        below.again = bool(first.branches or first.unopened)
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
    for listed in groups.values():
        listed.sort(key=lambda group: (_rank(group.role), group.role, group.table))
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


ID_SHOWN = 12
LABEL_SHOWN = 80
# The UI's metadata shows a list of this length well.
MARKDOWN_LINES = 40
AGAIN = "opened elsewhere"


def as_json(trace: Trace) -> dict[str, Any]:
    """The whole trace as JSON values: `asked`, `direction`, `rows`, `edges`, `completion`.

    Edges name rows by id: `child`, `parent`, `role`.
    """
    ids = trace.rows["row_id"].to_list()
    return {
        "asked": {"table": trace.asked.table, "row_id": trace.asked.row_id},
        "direction": "descendants" if trace.down else "ancestors",
        "rows": trace.rows.drop("place").to_dicts(),
        "edges": [
            {"child": ids[child], "parent": ids[parent], "role": role}
            for child, parent, role in trace.edges.rows()
        ],
        "completion": trace.completion,
    }


def as_tree(trace: Trace, *, everything: bool = False) -> Tree:
    """The trace as a tree for the terminal.

    Args:
        everything: list large groups, and open every row.
    """
    root = outline(trace, everything=everything)
    tree = Tree(_line(root))
    waiting = [(root, tree)]
    while waiting:
        branch, grown = waiting.pop()
        waiting += [(below, grown.add(_line(below))) for below in branch.branches]
        if branch.unopened:
            grown.add(Text(_unopened(trace, branch), style="dim"))
    return tree


def as_markdown(trace: Trace) -> str:
    """The trace as an indented Markdown list, cut after some lines."""
    lines: list[str] = []
    waiting = [(outline(trace), 0)]
    while waiting:
        branch, depth = waiting.pop()
        indent = "    " * depth
        lines.append(f"{indent}- {_markdown(branch)}")
        if branch.unopened:
            lines.append(f"{indent}    - *{_unopened(trace, branch)}*")
        waiting += [(below, depth + 1) for below in reversed(branch.branches)]
    if len(lines) > MARKDOWN_LINES:
        left = len(lines) - MARKDOWN_LINES
        lines = [*lines[:MARKDOWN_LINES], f"- *and {left} more lines*"]
    rows, edges = trace.rows.height, trace.edges.height
    size = f"{rows} rows, {edges} edges. All of it: `refine-dagster trace {trace.asked.row_id}`"
    return "\n".join([*lines, "", size])


def short(text: str, longest: int = LABEL_SHOWN) -> str:
    """The text, cut where it is too long for a line."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _line(branch: Branch) -> Text:
    line = Text()
    if branch.row is None:
        line.append(f"{branch.count} {branch.table}", style="bold")
        return line.append(f" ({branch.role})", style="cyan")
    if branch.role:
        line.append(f"{branch.role} ", style="cyan")
    line.append(branch.table, style="bold")
    line.append(f" {branch.row.row_id[:ID_SHOWN]}", style="yellow")
    line.append(f" {short(branch.row.label)}")
    if branch.row.state:
        line.append(f" [{branch.row.state}]", style="red")
    if branch.row.note:
        line.append(f" [{branch.row.note}]", style="dim")
    if branch.again:
        line.append(f" [{AGAIN}]", style="dim")
    return line


def _markdown(branch: Branch) -> str:
    if branch.row is None:
        return f"*{branch.role}*: {branch.count} **{branch.table}**"
    role = f"*{branch.role}*: " if branch.role else ""
    label = "".join(f"\\{c}" if c in "\\`*_[]<>#|" else c for c in short(branch.row.label))
    states = [branch.row.state, AGAIN if branch.again else None]
    marks = "".join(f" ({mark})" for mark in states if mark)
    return f"{role}**{branch.table}** `{branch.row.row_id[:ID_SHOWN]}` {label}{marks}"


def _unopened(trace: Trace, branch: Branch) -> str:
    kin = "descendants" if trace.down else "ancestors"
    return f"and its {branch.unopened} nearest {kin}"


BOX_WIDTH = 48


@dataclass(frozen=True)
class _Box:
    name: str
    lines: tuple[str, ...]
    removed: bool


@dataclass(frozen=True)
class _Arrow:
    used: str
    made: str
    role: str


def as_mermaid(trace: Trace, *, everything: bool = False) -> str:
    """The trace as a Mermaid flowchart.

    Args:
        everything: draw the rows of large groups, and open every row.
    """
    lines = ["flowchart LR", "    classDef removed stroke-dasharray: 4"]
    boxes, arrows = _picture(trace, everything=everything)
    for box in boxes:
        text = "<br/>".join(map(_mermaid, box.lines))
        lines.append(f'    {box.name}["{text}"]' + (":::removed" if box.removed else ""))
    for arrow in arrows:
        lines.append(f'    {arrow.used} -- "{_mermaid(arrow.role)}" --> {arrow.made}')
    return "\n".join(lines) + "\n"


def as_dot(trace: Trace, *, everything: bool = False) -> str:
    """The trace as a Graphviz graph; `everything` as above."""
    lines = ["digraph trace {", "    rankdir=LR;", "    node [shape=box];"]
    boxes, arrows = _picture(trace, everything=everything)
    for box in boxes:
        text = "\\n".join(map(_dot, box.lines))
        style = ", style=dashed" if box.removed else ""
        lines.append(f'    {box.name} [label="{text}"{style}];')
    for arrow in arrows:
        lines.append(f'    {arrow.used} -> {arrow.made} [label="{_dot(arrow.role)}"];')
    return "\n".join([*lines, "}"]) + "\n"


def _picture(trace: Trace, *, everything: bool) -> tuple[list[_Box], list[_Arrow]]:
    root = outline(trace, everything=everything)
    boxes = {"r0": _box("r0", root)}
    arrows: list[_Arrow] = []
    waiting = [("r0", root)]
    while waiting:
        above, branch = waiting.pop()
        for below in branch.branches:
            name = f"r{below.row.place}" if below.row else f"g{len(boxes)}"
            boxes.setdefault(name, _box(name, below))
            arrows.append(_arrow(trace, above, name, below.role))
            if below.row and not below.again:
                waiting.append((name, below))
        if branch.unopened:
            name = f"g{len(boxes)}"
            boxes[name] = _Box(name, (f"{branch.unopened} rows",), removed=False)
            arrows.append(_arrow(trace, above, name, "not opened"))
    return list(boxes.values()), arrows


def _box(name: str, branch: Branch) -> _Box:
    if branch.row is None:
        return _Box(name, (f"{branch.count} {branch.table}",), removed=False)
    lines = [f"{branch.table} {branch.row.row_id[:ID_SHOWN]}", short(branch.row.label, BOX_WIDTH)]
    lines += [branch.row.state] if branch.row.state else []
    return _Box(name, tuple(line for line in lines if line), removed=branch.row.state is not None)


def _arrow(trace: Trace, above: str, below: str, role: str) -> _Arrow:
    return _Arrow(above, below, role) if trace.down else _Arrow(below, above, role)


def _mermaid(text: str) -> str:
    """Text inside Mermaid's quotes: what means something to it or to HTML becomes its code."""
    return re.sub(r'["#<>&`\\]', lambda found: f"#{ord(found[0])};", text)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
