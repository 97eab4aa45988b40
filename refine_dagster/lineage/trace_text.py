"""A trace as text to read: a tree for the terminal, a list for the UI, JSON for programs."""

from __future__ import annotations

from typing import Any

from rich.text import Text
from rich.tree import Tree

from refine_dagster.lineage.trace import Trace
from refine_dagster.lineage.trace_outline import Branch, outline

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
