"""How the judge's quality looks in the UI: a table of AUCs, and reliability as a plot."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from assets.preview import markdown_picture, markdown_table
from refine_dagster.judge.judge import PARTS
from refine_dagster.warehouse.rows import Row


def auc_table(measures: Sequence[Row]) -> str:
    """Rows of `feedback_judge_quality`: each part's AUCs with intervals and calibration error."""
    values: dict[tuple[str, str], float] = {
        (row["dimension"], row["measure"]): row["value"] for row in measures
    }

    def interval(part: str, measure: str) -> str | None:
        middle, low, high = (values.get((part, measure + end)) for end in ("", "_low", "_high"))
        return None if middle is None else f"{middle:.3f} [{low:.3f}, {high:.3f}]"

    parts = [part.name for part in PARTS]
    return markdown_table(
        pl.DataFrame(
            {
                "part": parts,
                "AUC": [interval(part, "auc") for part in parts],
                "AUC, right against wrong": [interval(part, "auc_correctness") for part in parts],
                "calibration error": [values.get((part, "ece")) for part in parts],
            },
            schema_overrides={"calibration error": pl.Float64},
        )
    )


def calibration_plot(bins: Sequence[Row]) -> str:
    """Rows of `feedback_judge_calibration`: predicted against observed, a small plot a dimension.

    The diagonal is perfect calibration; a dot's area follows the number of texts in its bin.
    """
    from matplotlib.figure import Figure

    dimensions = list(dict.fromkeys(row["dimension"] for row in bins))
    if not dimensions:
        return "*no bins*"
    figure = Figure(figsize=(3.0 * len(dimensions), 3.0), layout="constrained")
    for place, dimension in enumerate(dimensions, 1):
        own = [row for row in bins if row["dimension"] == dimension]
        largest = max(row["examples"] for row in own)
        axes = figure.add_subplot(1, len(dimensions), place)
        axes.plot([0, 1], [0, 1], linewidth=0.8, linestyle="--", color="grey")
        axes.plot(
            [row["predicted"] for row in own], [row["observed"] for row in own], linewidth=1.0
        )
        axes.scatter(
            [row["predicted"] for row in own],
            [row["observed"] for row in own],
            s=[8 + 60 * row["examples"] / largest for row in own],
        )
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(dimension, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("share that is good", fontsize=8)
        axes.tick_params(labelsize=7)
    return markdown_picture(figure, "calibration")
