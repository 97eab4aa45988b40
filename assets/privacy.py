"""The privacy audit: what the arms' way of fine-tuning gives away of what it learns from."""

import dagster as dg

from assets.declaration import PipelineAsset, pipeline_asset
from assets.privacy_figures import audit_plot, audit_table
from assets.sources import arms_of, learnt_by, policy_after
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.warehouse.tables import base_instances


def privacy_report(last: PolicyRound) -> PipelineAsset:
    """The asset of the privacy audit of the arms that share the last round's pool."""
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
        base, profile = policy_after(step, 0), step.profile
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
