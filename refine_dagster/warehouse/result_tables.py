"""The tables of the dataset, of the fine-tuned models and their evaluation, and of exports."""

from __future__ import annotations

from refine_dagster.warehouse.pipeline_tables import INSTANCE, POOL, STEPS
from refine_dagster.warehouse.table import declare

# What left the house is recorded by the command that writes files, not by an asset of the graph.
EXPORTS = "exports"
_MODEL = {
    "arm": ("VARCHAR", "`seeds_only`, `self_instruct` or `refine_af`."),
    "fingerprint": ("VARCHAR", "The fine-tuned model's fingerprint (base model and adapter)."),
    "checkpoint_hash": ("VARCHAR", "The LoRA adapter's checkpoint."),
    "rows": ("BIGINT", "Training examples."),
    "steps": ("BIGINT", "Optimiser steps taken."),
    "loss_first": ("DOUBLE", "Loss at the first logged step."),
    "loss_last": ("DOUBLE", "Loss at the last logged step."),
}
_MODEL_STEPS = {"arm": _MODEL["arm"], **STEPS}
_CONTROL = (
    "VARCHAR",
    "`none`: the audit itself; `base_model`, `bag_of_words`: controls that cannot know members; "
    "`over_fitted`: one that must.",
)

RESULT_TABLES = (
    declare(
        "instruction_dataset",
        "One row of the dataset: an instruction with the refined policy's instance.",
        {
            name: INSTANCE[name]
            for name in INSTANCE
            if name not in ("format_valid", "format_problem", "kept", "rule", "value", "threshold")
        },
        owner=POOL,
        calls_model=True,
    ),
    declare(
        "instance_decisions",
        "The refined policy's instance of one accepted instruction, scored and decided on.",
        INSTANCE,
        asset="instruction_dataset",
        owner=POOL,
        label="rule || ': ' || instruction",
    ),
    declare(
        "fine_tuned_model",
        "The model fine-tuned on the dataset.",
        _MODEL,
        key=("arm",),
        label="arm || ', ' || left(fingerprint, 12)",
    ),
    declare(
        "fine_tuned_model_steps",
        "One logged step of the fine-tuned model's training.",
        _MODEL_STEPS,
        asset="fine_tuned_model",
        key=("arm", "step"),
    ),
    declare(
        "baseline_model",
        "A model fine-tuned with the same base and budget on other instances.",
        _MODEL,
        key=("arm",),
        label="arm || ', ' || left(fingerprint, 12)",
    ),
    declare(
        "baseline_model_steps",
        "One logged step of a baseline's training.",
        _MODEL_STEPS,
        asset="baseline_model",
        key=("arm", "step"),
    ),
    declare(
        "evaluation_report",
        "One arm's score on one held-out task.",
        {
            "arm": ("VARCHAR", "`base`, `seeds_only`, `self_instruct` or `refine_af`."),
            "task": ("VARCHAR", "Name of the task file."),
            "category": ("VARCHAR", "The task's first category."),
            "instances": ("BIGINT", "Instances scored."),
            "rouge_l": ("DOUBLE", "Mean of the best ROUGE-L F over references, times 100."),
            "exact_match": ("DOUBLE", "Share of exact answers, times 100."),
        },
        key=("arm", "task"),
        label="arm || ' on ' || task",
        calls_model=True,
    ),
    declare(
        "evaluation_comparisons",
        "One arm against another over all tasks.",
        {
            "arm": ("VARCHAR", "The arm."),
            "against": ("VARCHAR", "The arm it is compared with."),
            "tasks": ("BIGINT", "Tasks compared."),
            "wins": ("BIGINT", "Tasks on which the arm scores higher."),
            "ties": ("BIGINT", "Tasks on which both score the same."),
            "losses": ("BIGINT", "Tasks on which the arm scores lower."),
            "mean_delta": ("DOUBLE", "Mean difference of ROUGE-L, points of 100."),
            "delta_low": ("DOUBLE", "2.5 % bound of its bootstrap interval over tasks."),
            "delta_high": ("DOUBLE", "97.5 % bound of its bootstrap interval over tasks."),
            "win_share": ("DOUBLE", "Wins over all tasks."),
            "win_share_low": ("DOUBLE", "2.5 % bound of its bootstrap interval over tasks."),
            "win_share_high": ("DOUBLE", "97.5 % bound of its bootstrap interval over tasks."),
        },
        asset="evaluation_report",
        key=("arm", "against"),
        label="arm || ' against ' || against",
    ),
    declare(
        "evaluation_predictions",
        "One arm's answer to one instance of a held-out task.",
        {
            "arm": ("VARCHAR", "The arm."),
            "task": ("VARCHAR", "Name of the task file."),
            "instance": ("BIGINT", "Place of the instance in its task, from 0."),
            "prediction": ("VARCHAR", "The model's greedy answer."),
            "reference_outputs": ("VARCHAR[]", "The right answers."),
            "rouge_l": ("DOUBLE", "Best ROUGE-L F over the references, times 100."),
        },
        asset="evaluation_report",
        key=("arm", "task", "instance"),
        label="arm || ' on ' || task || ', instance ' || instance",
    ),
    declare(
        "privacy_report",
        "How well one attack, or a control, tells what an arm was fine-tuned on.",
        {
            "arm": _MODEL["arm"],
            "control": _CONTROL,
            "attack": (
                "VARCHAR",
                "`loss`, `calibrated`, `zlib`, `min_k`, `min_k_plus_plus`; `bag_of_words` of the "
                "control of that name.",
            ),
            "members": ("BIGINT", "Examples that the audited model was trained on."),
            "others": ("BIGINT", "Examples of the same arm that were kept from it."),
            "auc": (
                "DOUBLE",
                "Probability that a member scores above a non-member; 0.5 is chance.",
            ),
            "auc_low": ("DOUBLE", "2.5 % bound of its interval."),
            "auc_high": ("DOUBLE", "97.5 % bound of its interval."),
            "advantage": ("DOUBLE", "Distance of the AUC from 0.5: the figure to compare."),
            "tpr_at_low_fpr": (
                "DOUBLE",
                "Share of members above all but 1 % of the non-members.",
            ),
            "refusal": ("VARCHAR", "Why figures are missing; null where all are there."),
        },
        key=("arm", "control", "attack"),
        label="arm || ', ' || control || ', ' || attack",
    ),
    declare(
        "privacy_audits",
        "One model trained for the report on a half of an arm's examples, and thrown away.",
        {
            "arm": _MODEL["arm"],
            "control": ("VARCHAR", "`none`: trained as the arm was; or `over_fitted`."),
            "members": ("BIGINT", "Examples that it was trained on."),
            "others": ("BIGINT", "Examples of the same arm that were kept from it."),
            "steps": ("BIGINT", "Optimiser steps taken; 0 where refused."),
            "loss_first": ("DOUBLE", "Loss at the first step; null where refused."),
            "loss_last": ("DOUBLE", "Loss at the last step; null where refused."),
            "refusal": ("VARCHAR", "Why none was trained; null where one was."),
        },
        asset="privacy_report",
        key=("arm", "control"),
        label="arm || ', ' || control",
    ),
    declare(
        "privacy_scores",
        "What every attack makes of one example of an arm; higher is more like a member.",
        {
            "arm": _MODEL["arm"],
            "instruction": ("VARCHAR", "The example's instruction."),
            "input": ("VARCHAR", "The example's input."),
            "member": ("BOOLEAN", "Whether the audited model was trained on it."),
            "loss": ("DOUBLE", "Mean log-probability of the response's tokens, nats."),
            "calibrated": ("DOUBLE", "The same, less that under the base model."),
            "zlib": ("DOUBLE", "Sum of log-probabilities over the bytes of the compressed text."),
            "min_k": ("DOUBLE", "Mean log-probability of the least likely tokens."),
            "min_k_plus_plus": (
                "DOUBLE",
                "The same of log-probabilities in standard deviations of the model's own choice.",
            ),
        },
        asset="privacy_report",
        key=("arm", "instruction", "input"),
        label="arm || ': ' || instruction",
    ),
    declare(
        EXPORTS,
        "One file that the dataset was exported to, as last written.",
        {
            "path": ("VARCHAR", "The file."),
            "format": ("VARCHAR", "`alpaca`, `messages` or `parquet`."),
            "sha256": ("VARCHAR", "Hash of the file's bytes."),
            "rows": ("BIGINT", "Rows in it."),
            "data_version": ("VARCHAR", "The data version of `instruction_dataset` in it."),
        },
        key=("path",),
        label="format || ': ' || path",
    ),
)
