"""A trace to read: a tree for the terminal, a list for the UI, a picture, or JSON.

In a trace most rows are reached in many ways, and one model was trained on hundreds. The outline is
a tree: it opens each row where it is nearest to the row asked for, marks it elsewhere, and counts
large groups of one role. Every text but JSON draws this outline. In pictures, arrows go from what
was used to what was made from it, whichever way the trace walks; boxes of removed rows are dashed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from math import inf
from typing import Any

import polars as pl
from rich.text import Text
from rich.tree import Tree

from refine_dagster.escapes import markdown_text, terminal_text
from refine_dagster.lineage.trace import Trace

# Rows of one role that are listed. A prompt shows about eight demonstrations, and people ask which;
# many rows of another role are a training set.
LISTED = {"demonstration": 8}
LISTED_OTHERWISE = 3
# Rows opened before the rest is only counted: some screens' worth.
OPENED = 40
ID_SHOWN = 12
LABEL_SHOWN = 80
BOX_WIDTH = 48
# The UI's metadata shows a list of this length well.
MARKDOWN_LINES = 40
AGAIN = "opened elsewhere"
# The order of a row's parents; other roles follow by name.
_ROLES = (
    *("instruction", "decision", "candidate", "exported", "policy", "generator", "model"),
    *("base", "backbone", "judge", "demonstration", "trained_on", "measured_on", "nearest"),
)


@dataclass(frozen=True)
class Shown:
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
        role: empty of the row asked for.
        row: None of a group.
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
    """The tree of a trace; `everything` lists every group and opens every row."""
    root = _row_branch(trace, "", 0)
    opened, repeats = {0: root}, list[tuple[int, Branch]]()
    level, budget = {0: root}, inf if everything else OPENED
    while level:
        below = _below(trace, list(level), everything=everything)
        following: dict[int, Branch] = {}
        for place, branch in level.items():
            if budget <= 0:
                branch.unopened = sum(child.count for child in below[place])
                continue
            budget -= 1 if below[place] else 0
            branch.branches = below[place]
            for child in branch.branches:
                if child.row is None:
                    continue
                if child.row.place in opened:
                    repeats.append((child.row.place, child))
                else:
                    opened[child.row.place] = following[child.row.place] = child
        level = following
    for place, branch in repeats:
        branch.again = bool(opened[place].branches or opened[place].unopened)
    return root


def _below(trace: Trace, places: list[int], *, everything: bool) -> defaultdict[int, list[Branch]]:
    """The branches below each place: rows by role and table, counted where there are many."""
    near, far = ("parent", "child") if trace.down else ("child", "parent")
    groups = (
        trace.edges.select(near=near, far=far, role="role")
        .filter(pl.col("near").is_in(places))
        .join(trace.rows.select(far="place", table="table"), on="far")
        .group_by("near", "role", "table")
        .agg(
            pl.len().alias("count"),
            pl.col("far").sort() if everything else pl.col("far").sort().head(max(LISTED.values())),
        )
    )
    below: defaultdict[int, list[Branch]] = defaultdict(list)
    ranks = {role: rank for rank, role in enumerate(_ROLES)}
    for near, role, table, count, far in sorted(
        groups.rows(), key=lambda group: (ranks.get(group[1], len(ranks)), group[1], group[2])
    ):
        if everything or count <= LISTED.get(role, LISTED_OTHERWISE):
            below[near] += [_row_branch(trace, role, place) for place in far]
        else:
            below[near].append(Branch(role, None, table, count))
    return below


def _row_branch(trace: Trace, role: str, place: int) -> Branch:
    row = trace.rows.row(place, named=True)
    del row["depth"]
    row["label"] = " ".join((row["label"] or "").split())
    return Branch(role, Shown(**row), row["table"])


def as_json(trace: Trace) -> dict[str, Any]:
    """The whole trace as JSON values: `asked`, `direction`, `rows`, `edges`, `completion`.

    Edges name rows by id: `child`, `parent`, `role`.
    """
    ids = trace.rows["row_id"].to_list()
    return {
        "asked": {"table": trace.asked.table, "row_id": trace.asked.row_id},
        "direction": trace.kin,
        "rows": trace.rows.drop("place").to_dicts(),
        "edges": [
            {"child": ids[child], "parent": ids[parent], "role": role}
            for child, parent, role in trace.edges.rows()
        ],
        "completion": trace.completion,
    }


def as_tree(trace: Trace, *, everything: bool = False) -> Tree:
    root = outline(trace, everything=everything)
    tree = Tree(_line(root))
    waiting = [(root, tree)]
    while waiting:
        branch, node = waiting.pop()
        waiting += [(child, node.add(_line(child))) for child in branch.branches]
        if branch.unopened:
            node.add(Text(_unopened(trace, branch), style="dim"))
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
        waiting += [(child, depth + 1) for child in reversed(branch.branches)]
    if len(lines) > MARKDOWN_LINES:
        left = len(lines) - MARKDOWN_LINES
        lines = [*lines[:MARKDOWN_LINES], f"- *and {left} more lines*"]
    size = f"{trace.rows.height} rows, {trace.edges.height} edges"
    command = f"refine-dagster trace {trace.asked.row_id}"
    return "\n".join([*lines, "", f"{size}. All of it: `{command}`"])


def short(text: str, longest: int = LABEL_SHOWN) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _line(branch: Branch) -> Text:
    line = Text()
    if branch.row is None:
        line.append(terminal_text(f"{branch.count} {branch.table}"), style="bold")
        return line.append(terminal_text(f" ({branch.role})"), style="cyan")
    if branch.role:
        line.append(terminal_text(f"{branch.role} "), style="cyan")
    line.append(terminal_text(branch.table), style="bold")
    line.append(f" {branch.row.row_id[:ID_SHOWN]}", style="yellow")
    line.append(f" {terminal_text(short(branch.row.label))}")
    if branch.row.state:
        line.append(f" [{branch.row.state}]", style="red")
    if branch.row.note:
        line.append(f" [{terminal_text(branch.row.note)}]", style="dim")
    if branch.again:
        line.append(f" [{AGAIN}]", style="dim")
    return line


def _markdown(branch: Branch) -> str:
    role = f"*{markdown_text(branch.role)}*: " if branch.role else ""
    table = f"**{markdown_text(branch.table)}**"
    if branch.row is None:
        return f"{role}{branch.count} {table}"
    label = markdown_text(short(branch.row.label))
    marks = f" ({branch.row.state})" if branch.row.state else ""
    marks += f" ({AGAIN})" if branch.again else ""
    return f"{role}{table} `{branch.row.row_id[:ID_SHOWN]}` {label}{marks}"


def _unopened(trace: Trace, branch: Branch) -> str:
    return f"and its {branch.unopened} nearest {trace.kin}"


@dataclass(frozen=True)
class _Box:
    name: str
    lines: tuple[str, ...]
    removed: bool


def as_mermaid(trace: Trace, *, everything: bool = False) -> str:
    lines = ["flowchart LR", "    classDef removed stroke-dasharray: 4"]
    boxes, arrows = _picture(trace, everything=everything)
    for box in boxes:
        text = "<br/>".join(map(_mermaid, box.lines))
        lines.append(f'    {box.name}["{text}"]' + (":::removed" if box.removed else ""))
    lines += [f'    {start} -- "{_mermaid(role)}" --> {end}' for start, end, role in arrows]
    return "\n".join(lines) + "\n"


def as_dot(trace: Trace, *, everything: bool = False) -> str:
    lines = ["digraph trace {", "    rankdir=LR;", "    node [shape=box];"]
    boxes, arrows = _picture(trace, everything=everything)
    for box in boxes:
        text = "\\n".join(map(_dot, box.lines))
        style = ", style=dashed" if box.removed else ""
        lines.append(f'    {box.name} [label="{text}"{style}];')
    lines += [f'    {start} -> {end} [label="{_dot(role)}"];' for start, end, role in arrows]
    return "\n".join([*lines, "}"]) + "\n"


def _picture(trace: Trace, *, everything: bool) -> tuple[list[_Box], list[tuple[str, str, str]]]:
    """Boxes, and arrows between their names: start, end, role."""
    root = outline(trace, everything=everything)
    boxes = {"r0": _box("r0", root)}
    steps: list[tuple[str, str, str]] = []
    waiting = [("r0", root)]
    while waiting:
        above, branch = waiting.pop()
        for child in branch.branches:
            name = f"r{child.row.place}" if child.row else f"g{len(boxes)}"
            boxes.setdefault(name, _box(name, child))
            steps.append((above, name, child.role))
            if child.row and not child.again:
                waiting.append((name, child))
        if branch.unopened:
            name = f"g{len(boxes)}"
            boxes[name] = _Box(name, (f"{branch.unopened} rows",), removed=False)
            steps.append((above, name, "not opened"))
    arrows = steps if trace.down else [(below, above, role) for above, below, role in steps]
    return list(boxes.values()), arrows


def _box(name: str, branch: Branch) -> _Box:
    if branch.row is None:
        return _Box(name, (f"{branch.count} {branch.table}",), removed=False)
    title = f"{branch.table} {branch.row.row_id[:ID_SHOWN]}"
    lines = (title, short(branch.row.label, BOX_WIDTH), branch.row.state)
    return _Box(name, tuple(filter(None, lines)), removed=branch.row.state is not None)


def _mermaid(text: str) -> str:
    """Text inside Mermaid's quotes: what means something to it or to HTML becomes its code."""
    return re.sub(r'["#<>&`\\]', lambda match: f"#{ord(match[0])};", text)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
