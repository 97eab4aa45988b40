"""Automated feedback: the judge, and its scores of the base policy's instances."""

from typing import Any

import dagster as dg

from assets.declaration import PipelineAsset, pipeline_asset
from assets.judge_figures import auc_table, calibration_plot
from assets.preview import markdown_table
from assets.sources import policy_after, policy_assets
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.judge.published import PUBLISHED, find_published_models
from refine_dagster.judge.report import ACCURACY, CALIBRATION, QUALITY
from refine_dagster.refine_af.instances import rescaled
from refine_dagster.runtime import Made, joined
from refine_dagster.warehouse.rows import frame


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
        base = policy_after(step, 0)
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
    """The asset of a round's scored instances by the policy that the round begins with."""
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
