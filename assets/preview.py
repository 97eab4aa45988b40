"""How rows and plots look in the UI: Markdown tables and inline pictures."""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from refine_dagster.escapes import markdown_text
from refine_dagster.warehouse.rows import with_entries

# The UI gives a preview about 600 pixels and lets the rest run off: few columns may be long, many
# must be short, and a table that is too wide is turned on its side.
LONGEST_LINE = 480
LONGEST_CELL = 80
WIDEST = 7
RECORDS = 3
HASH = re.compile(r"[0-9a-f]{32,64}")
HASH_SHOWN = 12


def markdown_table(rows: pl.DataFrame) -> str:
    """A frame as a Markdown table, long cells and hashes cut, nothing in them markup.

    A frame of more than `WIDEST` columns is turned: a line for each, with its first `RECORDS` rows.
    """
    if rows.is_empty():
        return "*no rows*"
    if rows.width > WIDEST:
        records = rows.head(RECORDS).rows()
        turned = {
            "column": list(map(markdown_text, rows.columns)),
            **{
                f"row {number}": [_cell(value) for value in record]
                for number, record in enumerate(records, 1)
            },
        }
        return _markdown(list(turned), list(zip(*turned.values(), strict=True)))
    longest = max(LONGEST_CELL, LONGEST_LINE // rows.width)
    return _markdown(rows.columns, [[_cell(v, longest) for v in row] for row in rows.rows()])


def step_plots(rows: pl.DataFrame) -> str:
    """Every figure of a table of training steps as a small plot, for each `arm` if there are."""
    rows = with_entries(rows.sort("step"))
    arms = rows.partition_by("arm", as_dict=True) if "arm" in rows.columns else {("",): rows}
    series = {
        f"{arm} {name}".strip(): [math.nan if y is None else float(y) for y in steps[name]]
        for (arm,), steps in sorted(arms.items(), key=lambda item: item[0])
        for name, kind in rows.schema.items()
        if kind.is_numeric() and name != "step"
    }
    return line_plots(series, across="step")


def line_plots(series: Mapping[str, Sequence[float]], across: str) -> str:
    """One small line plot per series (title -> values, one a step from 1), labelled `across`."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    columns = min(3, len(series))
    lines = -(-len(series) // columns)
    figure = Figure(figsize=(3.5 * columns, 2.2 * lines))
    leave_room(figure, left=0.55, right=0.15, bottom=0.45, top=0.3)
    figure.subplots_adjust(wspace=0.25, hspace=0.6)
    for number, (title, values) in enumerate(series.items(), 1):
        axes = figure.add_subplot(lines, columns, number)
        axes.plot(range(1, len(values) + 1), values, linewidth=1.2)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelsize=7)
    return markdown_picture(figure, "plots")


def leave_room(figure: Any, *, left: float, right: float, bottom: float, top: float) -> None:
    """Leave room for titles and labels, in inches. Finding it out takes several drawings."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=left / width, right=1 - right / width, bottom=bottom / height, top=1 - top / height
    )


def markdown_picture(figure: Any, name: str) -> str:
    """A matplotlib figure as an inline Markdown picture."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return f"![{name}](data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()})"


def _markdown(names: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    head = f"| {' | '.join(map(markdown_text, names))} |\n|{'---|' * len(names)}\n"
    return head + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: Any, longest: int = LONGEST_CELL) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    if HASH.fullmatch(text):
        return f"{text[:HASH_SHOWN]}…"
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return markdown_text(text.replace("\n", "⏎"))
