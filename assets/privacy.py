"""The privacy audit: what the arms' way of fine-tuning gives away of what it learns from."""

from collections.abc import Sequence

import dagster as dg
import polars as pl

from assets.preview import leave_room, markdown_picture, markdown_table
from assets.sources import arms_of, base_of, learnt_by
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.privacy.audit import CONTROLS
from refine_dagster.privacy.report import off_chance, over_fitting_missed
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.tables import base_instances
from resources.warehouse import WarehouseResource

COLOURS = dict(zip(CONTROLS, ("tab:red", "tab:blue", "tab:green", "tab:grey"), strict=True))
NAMES = {"none": "audit"}


def privacy_report(last: PolicyRound) -> PipelineAsset:
    learnt = ["seed_tasks", base_instances(last).asset, "instruction_dataset"]

    @pipeline_asset(group="evaluation", kinds={"torch", "huggingface"}, owner="models", revision=1,
                    config=("privacy", "supervised", "device"),
                    deps=["base_model", *learnt, "baseline_model", "fine_tuned_model"])  # fmt: skip
    def privacy_report(step: Step) -> Result:
        """Whether the arms' models give away their training data: five attacks, three controls.

        For each arm a model is trained on one half of its examples, drawn before training, and
        attacked with both halves: AUC with its interval, and true positives at 1 % false ones. An
        AUC of 0.5 is chance; read it beside the controls. `docs/privacy.md` explains both.
        """
        if same := step.unchanged():
            return same
        base, profile = base_of(step), step.profile
        arms = {
            arm: (learnt_by(step, arm, last), model) for arm, model in arms_of(step, base).items()
        }
        with step.runtime() as runtime:
            made = stages.audit_privacy(base, arms, profile.privacy, profile.supervised, runtime)
        report = made.tables["privacy_report"]
        pictures = {
            "audit": dg.MetadataValue.md(audit_table(report)),
            "plot": dg.MetadataValue.md(audit_plot(report)),
        }
        return step.commit(made, pictures)

    return privacy_report


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
            schema_overrides={"AUC": pl.String, "TPR at 1 % FPR": pl.Float64, "missing": pl.String},
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
    for column, arm in enumerate(arms, 1):
        rows = [row for row in reversed(measured) if row["arm"] == arm]
        axes = figure.add_subplot(1, len(arms), column)
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
    shown = [name for name in CONTROLS if any(row["control"] == name for row in measured)]
    figure.legend(
        handles=[Line2D([], [], color=COLOURS[name], marker="o", markersize=3.5) for name in shown],
        labels=[NAMES.get(name, name) for name in shown],
        loc="lower center",
        ncols=len(shown) if len(arms) > 1 else 2,
        fontsize=7,
    )
    return markdown_picture(figure, "audit")


@dg.asset_check(asset="privacy_report", blocking=True)
def negative_controls_at_chance(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Controls that cannot know the members do not find them: no AUC of the base model's
    likelihoods, or of a classifier of the texts alone, is farther from 0.5 than chance explains.
    Where one is, the halves of the audit differ by themselves."""
    controls = _controls(warehouse, "control IN ('base_model', 'bag_of_words')")
    off = off_chance(controls)
    return dg.AssetCheckResult(
        passed=not off,
        metadata={
            "off_chance": ", ".join(off) or "none",
            **{
                f"{row['arm']}_{row['control']}_{row['attack']}": row["auc"] or 0.0
                for row in controls
            },
        },
    )


@dg.asset_check(asset="privacy_report", blocking=True)
def over_fitting_is_seen(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The members of a model that knows them by heart are found: the AUC of the attack `loss` is
    over 0.95. Where it is not, an AUC of 0.5 says nothing of the arms. Without an arm that has
    enough examples to be audited there is no such model."""
    controls = _controls(warehouse, "control = 'over_fitted'")
    missed = over_fitting_missed(controls)
    return dg.AssetCheckResult(
        passed=not missed,
        metadata={
            "missed": ", ".join(missed) or "none",
            **{f"{row['arm']}_{row['attack']}": row["auc"] or 0.0 for row in controls},
        },
    )


def _controls(warehouse: WarehouseResource, which: str) -> list[Row]:
    columns = "* EXCLUDE (row_id, parents)"
    query = f"SELECT {columns} FROM privacy_report WHERE {which} ORDER BY ALL"
    return warehouse.open().query(query).to_dicts()
