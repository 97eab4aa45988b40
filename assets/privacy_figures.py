"""How the privacy report looks in the UI: every AUC with its interval, as a table and a plot."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from assets.preview import leave_room, markdown_picture, markdown_table
from refine_dagster.privacy.audit import CONTROLS
from refine_dagster.warehouse.rows import Row

COLOURS = dict(zip(CONTROLS, ("tab:red", "tab:blue", "tab:green", "tab:grey"), strict=True))
NAMES = {"none": "audit"}


def audit_table(report: Sequence[Row]) -> str:
    """Rows of `privacy_report` as a Markdown table; where figures are missing, why."""

    def interval(row: Row) -> str | None:
        if row["auc"] is None:
            return None
        return f"{row['auc']:.3f} [{row['auc_low']:.3f}, {row['auc_high']:.3f}]"

    return markdown_table(
        pl.DataFrame(
            {
                "arm": [row["arm"] for row in report],
                "control": [NAMES.get(row["control"], row["control"]) for row in report],
                "attack": [row["attack"] for row in report],
                "members / others": [f"{row['members']} / {row['others']}" for row in report],
                "AUC": [interval(row) for row in report],
                "TPR at 1 % FPR": [row["tpr_at_low_fpr"] for row in report],
                "missing": [row["refusal"] for row in report],
            },
            schema_overrides={
                "AUC": pl.String,
                "TPR at 1 % FPR": pl.Float64,
                "missing": pl.String,
            },
        )
    )


def audit_plot(report: Sequence[Row]) -> str:
    """Each arm's AUCs with their intervals, the controls beside the audit, as a Markdown picture.

    The dashed line is chance: the audit's marks should be read by their distance from it, those of
    the base model and of the words alone should touch it, the over-fitted model's be far away.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    measured = [row for row in report if row["auc"] is not None]
    arms = list(dict.fromkeys(row["arm"] for row in measured))
    if not arms:
        return "*no arm has enough examples*"
    figure = Figure(figsize=(3.4 * len(arms), 3.6))
    leave_room(figure, left=1.1, right=0.1, bottom=0.85, top=0.3)
    figure.subplots_adjust(wspace=0.5)
    for place, arm in enumerate(arms, 1):
        rows = [row for row in reversed(measured) if row["arm"] == arm]
        axes = figure.add_subplot(1, len(arms), place)
        axes.axvline(0.5, linewidth=0.8, linestyle="--", color="grey")
        for line, row in enumerate(rows):
            colour = COLOURS[row["control"]]
            axes.plot([row["auc_low"], row["auc_high"]], [line] * 2, linewidth=1.2, color=colour)
            axes.plot(row["auc"], line, "o", markersize=3.5, color=colour)
        axes.set_yticks(range(len(rows)), [row["attack"] for row in rows], fontsize=6)
        axes.set(xlim=(0.0, 1.02))
        axes.set_title(arm, fontsize=9)
        axes.set_xlabel("AUC", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    shown = [one for one in CONTROLS if any(row["control"] == one for row in measured)]
    figure.legend(
        handles=[Line2D([], [], color=COLOURS[one], marker="o", markersize=3.5) for one in shown],
        labels=[NAMES.get(one, one) for one in shown],
        loc="lower center",
        ncols=len(shown) if len(arms) > 1 else 2,
        fontsize=7,
    )
    return markdown_picture(figure, "audit")
