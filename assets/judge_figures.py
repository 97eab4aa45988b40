"""How the judge's quality looks in the UI: a table of AUCs, and reliability as a plot."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from assets.preview import markdown_picture, markdown_table
from refine_dagster.judge.judge import PARTS
from refine_dagster.judge.quality import QualityMeasure
from refine_dagster.statistics import CalibrationBin


def auc_table(measures: Sequence[QualityMeasure]) -> str:
    """Each part's AUCs with their intervals and its calibration error, as a Markdown table."""
    by_name = {(one.dimension, one.measure): one for one in measures}

    def interval(part: str, measure: str) -> str | None:
        ends = [by_name.get((part, measure + end)) for end in ("", "_low", "_high")]
        middle, low, high = (None if one is None else one.value for one in ends)
        return None if middle is None else f"{middle:.3f} [{low:.3f}, {high:.3f}]"

    def error(part: str) -> float | None:
        found = by_name.get((part, "ece"))
        return None if found is None else found.value

    parts = [part.name for part in PARTS]
    return markdown_table(
        pl.DataFrame(
            {
                "part": parts,
                "AUC": [interval(part, "auc") for part in parts],
                "AUC, right against wrong": [interval(part, "auc_correctness") for part in parts],
                "calibration error": [error(part) for part in parts],
            },
            schema_overrides={"calibration error": pl.Float64},
        )
    )


def calibration_plot(bins: Sequence[CalibrationBin]) -> str:
    """Predicted against observed, one small plot a dimension, as a Markdown picture.

    The diagonal is perfect calibration; a dot's area follows the number of texts in its bin.
    """
    from matplotlib.figure import Figure

    dimensions = list(dict.fromkeys(one.dimension for one in bins))
    if not dimensions:
        return "*no bins*"
    figure = Figure(figsize=(3.0 * len(dimensions), 3.0), layout="constrained")
    for place, dimension in enumerate(dimensions, 1):
        own = [one for one in bins if one.dimension == dimension]
        largest = max(one.examples for one in own)
        axes = figure.add_subplot(1, len(dimensions), place)
        axes.plot([0, 1], [0, 1], linewidth=0.8, linestyle="--", color="grey")
        axes.plot([one.predicted for one in own], [one.observed for one in own], linewidth=1.0)
        axes.scatter(
            [one.predicted for one in own],
            [one.observed for one in own],
            s=[8 + 60 * one.examples / largest for one in own],
        )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(dimension, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("share that is good", fontsize=8)
        axes.tick_params(labelsize=7)
    return markdown_picture(figure, "calibration")
