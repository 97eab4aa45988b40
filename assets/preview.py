"""How rows and plots look in the UI: Markdown tables and inline pictures."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

LONGEST_CELL = 80


def markdown_table(rows: pl.DataFrame) -> str:
    """A frame as a Markdown table, long cells cut, line breaks and bars made safe."""
    if rows.is_empty():
        return "*no rows*"
    head = f"| {' | '.join(rows.columns)} |\n|{'---|' * len(rows.columns)}\n"
    body = "\n".join(f"| {' | '.join(_cell(value) for value in row)} |" for row in rows.rows())
    return head + body


def line_plots(series: Mapping[str, Sequence[float]], across: str) -> str:
    """One small line plot per series as a Markdown picture.

    Args:
        series: title -> values, one a step from 1.
        across: label of the horizontal axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 3
    lines = -(-len(series) // columns)
    figure = Figure(figsize=(4 * columns, 2.4 * lines), layout="constrained")
    for place, (title, values) in enumerate(series.items(), 1):
        axes = figure.add_subplot(lines, columns, place)
        axes.plot(range(1, len(values) + 1), values, linewidth=1.2)
        axes.set_title(title, fontsize=9)
        axes.set_xlabel(across, fontsize=8)
        axes.tick_params(labelsize=7)
    stream = io.BytesIO()
    FigureCanvasAgg(figure).print_png(stream)
    return f"![plots](data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()})"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value).replace("|", "\\|").replace("\n", "⏎")
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"
