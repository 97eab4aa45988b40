"""The judge as rows: what it is, and how good it was found to be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from refine_dagster.judge.quality import ALL, JudgeQuality
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row

JUDGE, ACCURACY = "feedback_judge", "feedback_judge_accuracy"
QUALITY, CALIBRATION = "feedback_judge_quality", "feedback_judge_calibration"
# Measures that are figures of the judge's materialization.
SHOWN = ("auc", "auc_correctness", "ece")


def judge_tables(
    kind: str,
    measured: Mapping[str, Any],
    quality: JudgeQuality,
    made_from: Sequence[Parent],
    tested_on: Sequence[Parent] = (),
    checkpoint_hash: str | None = None,
) -> dict[str, list[Row]]:
    """The judge's tables.

    Args:
        measured: fields of `JudgeTraining` or `PublishedMeasure`.
        tested_on: rows that a published judge's accuracies were measured on.
    """
    payload = {
        "kind": kind,
        "fingerprint": measured["fingerprint"],
        "checkpoint_hash": checkpoint_hash,
        "held_out_examples": measured["held_out_examples"],
    }
    row = make_row(JUDGE, payload, made_from)
    owner = as_parent(JUDGE, row, "judge")
    return {
        JUDGE: [row],
        ACCURACY: [make_row(ACCURACY, one, [owner, *tested_on]) for one in measured["accuracies"]],
        QUALITY: [make_row(QUALITY, asdict(one), [owner]) for one in quality.measures],
        CALIBRATION: [make_row(CALIBRATION, asdict(one), [owner]) for one in quality.calibration],
    }


def judge_figures(tables: Mapping[str, Sequence[Row]]) -> dict[str, float]:
    """Accuracy, AUC and calibration error of each part, from the judge's tables."""
    accuracies = {
        f"accuracy_{row['dimension']}": row["accuracy"]
        for row in tables[ACCURACY]
        if row["corruption"] == ALL
    }
    measures = {
        f"{row['measure']}_{row['dimension']}": row["value"]
        for row in tables[QUALITY]
        if row["measure"] in SHOWN
    }
    return accuracies | measures
