"""A trace as text to read: a tree for the terminal, a list for the UI, JSON for programs.

A trace as a picture, in the two texts that most tools draw from: Mermaid and Graphviz.

Boxes are rows, or counted groups of rows; arrows go from what was used to what was made from it,
whichever way the trace walks. Boxes of removed rows are dashed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rich.text import Text
from rich.tree import Tree

from refine_dagster.lineage.trace import Branch, Trace, outline

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
        waiting += [(one, grown.add(_line(one))) for one in branch.branches]
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
        waiting += [(one, depth + 1) for one in reversed(branch.branches)]
    if len(lines) > MARKDOWN_LINES:
        left = len(lines) - MARKDOWN_LINES
        lines = [*lines[:MARKDOWN_LINES], f"- *and {left} more lines*"]
    rows, edges = trace.rows.height, trace.edges.height
    told = f"{rows} rows, {edges} edges. All of it: `refine-dagster trace {trace.asked.row_id}`"
    return "\n".join([*lines, "", told])


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
    told = [branch.row.state, AGAIN if branch.again else None]
    marks = "".join(f" ({mark})" for mark in told if mark)
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
        for one in branch.branches:
            name = f"r{one.row.place}" if one.row else f"g{len(boxes)}"
            boxes.setdefault(name, _box(name, one))
            arrows.append(_arrow(trace, above, name, one.role))
            if one.row and not one.again:
                waiting.append((name, one))
        if branch.unopened:
            name = f"g{len(boxes)}"
            boxes[name] = _Box(name, (f"{branch.unopened} rows",), removed=False)
            arrows.append(_arrow(trace, above, name, "not opened"))
    return list(boxes.values()), arrows


def _box(name: str, branch: Branch) -> _Box:
    if branch.row is None:
        return _Box(name, (f"{branch.count} {branch.table}",), removed=False)
    told = [f"{branch.table} {branch.row.row_id[:ID_SHOWN]}", short(branch.row.label, BOX_WIDTH)]
    told += [branch.row.state] if branch.row.state else []
    return _Box(name, tuple(line for line in told if line), removed=branch.row.state is not None)


def _arrow(trace: Trace, above: str, below: str, role: str) -> _Arrow:
    return _Arrow(above, below, role) if trace.down else _Arrow(below, above, role)


def _mermaid(text: str) -> str:
    """Text inside Mermaid's quotes: what means something to it or to HTML becomes its code."""
    return re.sub(r'["#<>&`\\]', lambda found: f"#{ord(found[0])};", text)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')
