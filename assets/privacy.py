"""The privacy audit: what the arms' way of fine-tuning gives away of what it learns from."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import dagster as dg

from assets.privacy_figures import audit_plot, audit_table
from assets.sources import as_parent, example_of, learnt_by
from assets.step import Step, materializing
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.privacy.audit import NONE, Audit, AuditedArm, AuditExample, audit_arms
from refine_dagster.privacy.report import audited_model, findings, privacy_scores
from refine_dagster.warehouse.rows import Parent, Row, make_row
from refine_dagster.warehouse.tables import base_instances
from resources.checkpoints import CheckpointsResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

# Every arm, and the asset that trains it.
ARMS = {
    "seeds_only": "baseline_model",
    "self_instruct": "baseline_model",
    "refine_af": "fine_tuned_model",
}


def privacy_report(last: PolicyRound) -> dg.AssetsDefinition:
    """The asset of the privacy audit of the arms that share the last round's pool."""
    instances = base_instances(last).asset

    @dg.asset(name="privacy_report", group_name="evaluation", kinds={"torch", "huggingface"},
              owners=["team:models"],
              deps=["seed_tasks", "base_model", instances, "instruction_dataset",
                    "baseline_model", "fine_tuned_model"])  # fmt: skip
    def report(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """Whether the arms' models tell what they were fine-tuned on: five attacks, three controls.

        For each arm a model is trained on one half of its examples, drawn before training, and
        attacked with both halves: AUC with its interval, and true positives at 1 % false ones. An
        AUC of 0.5 tells nothing; read it beside the controls. `docs/privacy.md` explains both.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return same
            base = step.row("base_model")
            sources = {arm: learnt_by(step, arm, last) for arm in ARMS}
            models = {row["arm"]: row for asset in set(ARMS.values()) for row in step.rows(asset)}
            arms = [
                AuditedArm(
                    arm,
                    [AuditExample(row["row_id"], example_of(row)) for row in rows],
                    steps=models[arm]["steps"],
                    rows=models[arm]["rows"],
                )
                for arm, (_, rows) in sources.items()
            ]
            with gpu.session(step.profile.device) as device:
                step.device = device
                audits = audit_arms(
                    checkpoints.base_model(base),
                    arms,
                    step.profile.privacy,
                    step.profile.supervised,
                    device,
                    step.profile.run_seed,
                )
            tables = {arm: table for arm, (table, _) in sources.items()}
            owners = {
                arm: [
                    as_parent("base_model", base, "base"),
                    as_parent(asset, models[arm], "arm"),
                ]
                for arm, asset in ARMS.items()
            }
            return _commit(step, audits, tables, owners)

    return report


def _commit(
    step: Step,
    audits: Sequence[Audit],
    tables: Mapping[str, str],
    owners: Mapping[str, Sequence[Parent]],
) -> dg.MaterializeResult[Any]:
    """Commit the audits.

    Args:
        tables: arm -> the table of its examples.
        owners: arm -> the models that its audit is about.
    """
    audited: list[Row] = []
    report: list[Row] = []
    scores: list[Row] = []
    for audit in audits:
        table = tables[audit.arm]
        sides = ((audit.split.members, "trained_on"), (audit.split.others, "held_out"))
        examples = [Parent(table, one.row_id, role) for side, role in sides for one in side]
        model = make_row(
            "privacy_audits", asdict(audited_model(audit)), [*owners[audit.arm], *examples]
        )
        owner = as_parent("privacy_audits", model, "audit")
        audited.append(model)
        report += [make_row("privacy_report", asdict(one), [owner]) for one in findings(audit)]
        scores += [
            make_row("privacy_scores", asdict(one), [owner, Parent(table, example, "example")])
            for example, one in privacy_scores(audit)
        ]
    return step.commit(
        {"privacy_report": report, "privacy_audits": audited, "privacy_scores": scores},
        figures={
            f"auc_{row['arm']}_{row['attack']}": row["auc"]
            for row in report
            if row["control"] == NONE
        },
        metadata={
            "audit": dg.MetadataValue.md(audit_table(report)),
            "plot": dg.MetadataValue.md(audit_plot(report)),
        },
    )
