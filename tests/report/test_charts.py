"""Geometry of charts, and the doctests of the report's modules."""

from __future__ import annotations

import doctest
import math

import pytest

from refine_dagster.report import charts, outcome, table, variety
from refine_dagster.report.charts import interval_chart, line_chart, ticks
from refine_dagster.report.variety import opening_map


@pytest.mark.parametrize("module", [charts, outcome, table, variety])
def test_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-0.37, 0.52), (1e-9, 2e-9), (5, 5), (0, 0), (-3e6, 1e7)]
)
def test_ticks_span_the_values(low: float, high: float) -> None:
    marks = ticks(low, high)
    places = [mark.at for mark in marks]
    assert places == sorted(set(places))
    assert 2 <= len(marks) <= 8
    assert places[0] <= low + 1e-12
    assert places[-1] >= high - 1e-12


def test_a_line_breaks_where_a_value_is_missing() -> None:
    chart = line_chart("loss", [1, 2, 3, 4], {"loss": [2.0, None, math.nan, 1.0]})
    assert chart is not None
    [(_, path)] = chart.lines
    assert path.count("M") == 2
    assert "from 2 to 1" in chart.summary
    assert line_chart("loss", [1], {"loss": [2.0]}) is None
    assert line_chart("loss", [1, 2], {"loss": [None, None]}) is None


def test_intervals_lie_inside_the_chart_with_the_reference() -> None:
    chart = interval_chart("d", 0.0, "none", [("a", "t", 1.0, 0.5, 2.0, "better", "good")])
    assert chart is not None
    [row] = chart.rows
    assert 0 < chart.reference < row.low < row.at < row.high < 100
    assert interval_chart("d", 0.0, "none", []) is None


def test_the_map_counts_every_text() -> None:
    texts = [f"verb{n % 20} the thing{n}" for n in range(60)]
    bars, others = opening_map(texts)
    assert len(bars) == 16
    assert sum(part.count for bar in bars for part in bar.segments) + others == 60
