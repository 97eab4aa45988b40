"""A trace as a picture, in the two texts that most tools draw from: Mermaid and Graphviz.

Boxes are rows, or counted groups of rows; arrows go from what was used to what was made from it,
whichever way the trace walks. Boxes of removed rows are dashed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from refine_dagster.lineage.trace import Trace
from refine_dagster.lineage.trace_outline import Branch, outline
from refine_dagster.lineage.trace_text import ID_SHOWN, short

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
