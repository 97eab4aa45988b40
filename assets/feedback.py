"""Automated feedback: the judge, and its scores of the base policy's instances."""

from collections.abc import Sequence
from typing import Any

import dagster as dg
import polars as pl

from assets.preview import markdown_picture, markdown_table
from assets.sources import base_of, policy_after, policy_assets
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.judge.judge import PARTS
from refine_dagster.judge.published import PUBLISHED, find_published_models
from refine_dagster.judge.quality import ACCURACY, CALIBRATION, QUALITY
from refine_dagster.refine_af.instances import rescaled
from refine_dagster.runtime import Made, joined
from refine_dagster.warehouse.rows import Row, frame
from resources.warehouse import WarehouseResource

# Standard errors by which the judge's accuracy must exceed chance.
STANDARD_ERRORS = 2.0
# AUC that every part of the judge must exceed with its whole interval; one half is guessing.
AUC_FLOOR = 0.5


@pipeline_asset(group="feedback", kinds={"torch", "huggingface"}, owner="models", revision=5,
                config=("judge", "device"), deps=["seed_tasks", "base_model"])  # fmt: skip
def feedback_judge(step: Step) -> Result:
    """The judge: naturalness, coherence, understandability and a Bradley-Terry reward.

    With `judge.kind` = `offline`, one backbone, a copy of the base model, with four outputs; it
    learns to tell the seeds and the primer from rule-made corruptions of them. With `published`,
    UniEval and the OpenAssistant reward model as they are. Accuracy on held-out source tasks is
    stored per dimension and kind of corruption; so are each part's AUC and calibration, and the
    parts' correlations, on primer tasks where right and wrong are known.
    """
    config = step.profile.judge
    if config.kind == PUBLISHED:
        models = find_published_models(config)
        files = {"unieval": models.unieval, "reward_model": models.reward_model}
        if same := step.unchanged(**{name: ref.fingerprint for name, ref in files.items()}):
            return same
        with step.runtime() as runtime:
            made = stages.measure_judge(models, step.rows("seed_tasks"), config, runtime)
        return step.commit(made, _pictures(made))
    if same := step.unchanged():
        return same
    with step.runtime() as runtime:
        base = base_of(step)
        made = stages.train_judge(base, step.rows("seed_tasks"), config, runtime)
    return step.commit(made, _pictures(made))


def _pictures(made: Made) -> dict[str, Any]:
    accuracies = frame(ACCURACY, made.tables[ACCURACY]).drop("row_id", "parents")
    return {
        "accuracy": dg.MetadataValue.md(markdown_table(accuracies)),
        "quality": dg.MetadataValue.md(auc_table(made.tables[QUALITY])),
        "calibration": dg.MetadataValue.md(calibration_plot(made.tables[CALIBRATION])),
    }


def reward_scored_instructions(policy_round: PolicyRound) -> PipelineAsset:
    first, before = policy_round.is_first, policy_round.number - 1
    pool = policy_round.name("filtered_instructions")
    # The scale of whitened rewards is that of the first round throughout.
    scale = [] if first else ["reward_scored_instructions"]

    @pipeline_asset(name=policy_round.name("reward_scored_instructions"), group="feedback",
                    kinds={"huggingface", "duckdb"}, owner="data", revision=2,
                    config=("instances", "reward", "selection", "device"),
                    deps=["seed_tasks", *policy_assets(before), "feedback_judge", pool, *scale],
                    automated=True)  # fmt: skip
    def scored(step: Step) -> Result:
        """The base policy's input and output for each accepted instruction, with the judge's
        scores.

        Raw parts are stored beside the reward, and each row says whether it may be learnt from:
        these are the instances of the Self-Instruct baseline, and the policy's reward before
        training. In a later round the policy is that of the round before; the base policy's
        instances of the same pool, which the baseline learns from, stand in a table beside.
        """
        if same := step.unchanged():
            return same
        profile, judge = step.profile, step.row("feedback_judge")
        policies = {step.asset: policy_after(step, before)}
        if not first:
            policies[policy_round.name("base_scored_instructions")] = policy_after(step, 0)
        made = []
        base_rows = [row for table in scale for row in step.rows(table)]
        with step.runtime() as runtime, step.feedback(runtime, base_rows) as feedback:
            for table, policy in policies.items():
                written = stages.write_instances(
                    policy,
                    step.rows(pool),
                    step.rows("seed_tasks"),
                    feedback,
                    profile.instances,
                    runtime,
                    policy_round,
                )
                if first and profile.reward.whiten:
                    written = rescaled(written, feedback)
                made.append(stages.select(table, written, policy, judge, profile.selection))
        return step.commit(Made(joined(made).tables, made[0].figures))

    return scored


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
    for column, dimension in enumerate(dimensions, 1):
        own = [row for row in bins if row["dimension"] == dimension]
        largest = max(row["examples"] for row in own)
        axes = figure.add_subplot(1, len(dimensions), column)
        axes.plot([0, 1], [0, 1], linewidth=0.8, linestyle="--", color="grey")
        predicted, observed = ([row[name] for row in own] for name in ("predicted", "observed"))
        axes.plot(predicted, observed, linewidth=1.0)
        axes.scatter(predicted, observed, s=[8 + 60 * row["examples"] / largest for row in own])
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), aspect="equal")
        axes.set_title(dimension, fontsize=9)
        axes.set_xlabel("predicted", fontsize=8)
        axes.set_ylabel("share that is good", fontsize=8)
        axes.tick_params(labelsize=7)
    return markdown_picture(figure, "calibration")


@dg.asset_check(asset="feedback_judge", blocking=True)
def judge_better_than_chance(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Held-out accuracy of every dimension exceeds chance by two standard errors."""
    rows = warehouse.open().query(
        "SELECT dimension, accuracy, chance, examples FROM feedback_judge_accuracy "
        "WHERE corruption = 'all' ORDER BY dimension"
    )
    weak = [
        dimension
        for dimension, accuracy, chance, examples in rows.rows()
        if accuracy - chance <= STANDARD_ERRORS * (chance * (1 - chance) / examples) ** 0.5
    ]
    return dg.AssetCheckResult(
        passed=not weak and not rows.is_empty(),
        metadata={
            "no_better_than_chance": ", ".join(weak) or "none",
            **{dimension: accuracy for dimension, accuracy, _, _ in rows.rows()},
        },
    )


@dg.asset_check(asset="feedback_judge", blocking=True)
def judge_auc(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Every part puts good texts above bad ones on tasks where both are known: the lower bound of
    its AUC is over one half. Shown beside it, without being held to a floor: the AUC between right
    and wrong answers of the same kind, which is what the policy can learn about being right."""
    measures = (
        warehouse.open()
        .query("SELECT dimension, measure, value FROM feedback_judge_quality ORDER BY ALL")
        .rows()
    )
    lows = {dimension: value for dimension, measure, value in measures if measure == "auc_low"}
    weak = sorted(part.name for part in PARTS if not lows.get(part.name, 0.0) > AUC_FLOOR)
    return dg.AssetCheckResult(
        passed=not weak,
        metadata={
            "floor": AUC_FLOOR,
            "not_above_the_floor": ", ".join(weak) or "none",
            **{
                f"{dimension}_{measure}": value
                for dimension, measure, value in measures
                if measure.startswith("auc")
            },
        },
    )
