"""Geometry of the report's charts; the templates draw them as inline SVG.

Coordinates of bars and intervals are percentages of the width, so that text beside them keeps its
size on a phone. Line charts have a view box of their own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 320, 170
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 10, 24
# More points than pixels say nothing more.
MOST_POINTS = 300


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: where it is, and what it says."""

    at: float
    text: str


@dataclass(frozen=True)
class LineChart:
    """Series over steps in one box of WIDTH by HEIGHT.

    Attributes:
        lines: (label, path data), one per series.
        summary: what a reader who cannot see it is told.
    """

    title: str
    lines: tuple[tuple[str, str], ...]
    across: tuple[Tick, ...]
    up: tuple[Tick, ...]
    summary: str

    width, height, left, right, top, bottom = WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM


def line_chart(
    title: str, steps: Sequence[int], series: Mapping[str, Sequence[float | None]]
) -> LineChart | None:
    """A chart of series, one value a step, None where it is missing; None without two points."""
    values = [
        float(value)
        for line in series.values()
        for value in line
        if value is not None and math.isfinite(value)
    ]
    if len(steps) < 2 or not values:
        return None
    up = ticks(min(values), max(values))
    low, high = min(up[0].at, min(values)), max(up[-1].at, max(values))
    first, last = steps[0], steps[-1]

    def x(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (step - first) / (last - first)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - low) / ((high - low) or 1)

    every = -(-len(steps) // MOST_POINTS)
    lines = []
    for label, line in series.items():
        path, pen = [], "M"
        for step, value in list(zip(steps, line, strict=True))[::every]:
            if value is None or not math.isfinite(value):
                pen = "M"
                continue
            path.append(f"{pen}{x(step):.1f} {y(value):.1f}")
            pen = "L"
        lines.append((label, " ".join(path)))
    told = []
    for label, line in series.items():
        present = [value for value in line if value is not None]
        if present:
            name = f"{label} " if len(series) > 1 else ""
            told.append(f"{name}from {present[0]:.3g} to {present[-1]:.3g}")
    return LineChart(
        title,
        tuple(lines),
        tuple(Tick(x(step), f"{step:,}") for step in sorted({first, (first + last) // 2, last})),
        tuple(Tick(y(tick.at), tick.text) for tick in up),
        f"{title}: {'; '.join(told)}, steps {first} to {last}",
    )


@dataclass(frozen=True)
class Interval:
    """A figure with its interval as a bar; places are percentages of the width."""

    label: str
    text: str
    at: float
    low: float
    high: float
    verdict: str
    mark: str  # a class: `good`, `bad`, `plain`


@dataclass(frozen=True)
class IntervalChart:
    """Figures with their intervals on a common axis, and the value that means no effect."""

    title: str
    reference: float
    reference_text: str
    rows: tuple[Interval, ...]
    axis: tuple[Tick, ...]


def interval_chart(
    title: str,
    reference: float,
    reference_text: str,
    rows: Sequence[tuple[str, str, float, float, float, str, str]],
) -> IntervalChart | None:
    """A chart of (label, text, value, low, high, verdict, mark); None without rows."""
    if not rows:
        return None
    axis = ticks(min([reference, *(r[3] for r in rows)]), max([reference, *(r[4] for r in rows)]))
    low, high = axis[0].at, axis[-1].at

    def place(value: float) -> float:
        return round(2 + 96 * (value - low) / ((high - low) or 1), 2)

    return IntervalChart(
        title,
        place(reference),
        reference_text,
        tuple(
            Interval(label, text, place(value), place(start), place(end), verdict, mark)
            for label, text, value, start, end, verdict, mark in rows
        ),
        tuple(Tick(place(tick.at), tick.text) for tick in axis),
    )


@dataclass(frozen=True)
class Segment:
    """A part of a bar: name, count, start and width in percent, its class."""

    name: str
    count: int
    start: float
    width: float
    mark: str


@dataclass(frozen=True)
class Bar:
    label: str
    text: str
    segments: tuple[Segment, ...]


def bar(
    label: str, text: str, parts: Sequence[tuple[str, int, str]], whole: int | None = None
) -> Bar:
    """A bar of (name, count, class) parts, as wide as the page for `whole`, by default their sum.

    >>> bar("in", "4", [("kept", 1, "kept"), ("too short", 3, "rejected")]).segments[1].start
    25.0
    """
    whole = whole or sum(count for _, count, _ in parts) or 1
    segments, start = [], 0.0
    for name, count, mark in parts:
        width = 100 * count / whole
        segments.append(Segment(name, count, round(start, 3), round(width, 3), mark))
        start += width
    return Bar(label, text, tuple(segments))


def ticks(low: float, high: float, most: int = 5) -> tuple[Tick, ...]:
    """Round values from at most `low` to at least `high`, `most` steps between them.

    >>> [tick.text for tick in ticks(0.2, 9.1)]
    ['0', '2', '4', '6', '8', '10']
    """
    if high <= low:
        spread = abs(low) / 10 or 1.0
        low, high = low - spread, high + spread
    raw = (high - low) / most
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * factor for factor in (1, 2, 5, 10) if raw <= scale * factor * 1.0000001)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return tuple(
        Tick(number * step, f"{number * step:.{digits}f}") for number in range(first, last + 1)
    )
