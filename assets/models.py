"""The base model, the fine-tuned model, and the baselines that it is compared with.

All arms start from the same base, take the same number of optimiser steps with the same config, and
differ only in what they learn from. The steps are set by the pool of accepted instructions, which
all arms share.
"""

from assets.sources import base_of, learnt_by
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.judge.published import PUBLISHED, find_published_models
from refine_dagster.models.check import check_model
from refine_dagster.models.language_model import resolve_model
from refine_dagster.runtime import joined
from refine_dagster.training.sft import steps_for
from refine_dagster.warehouse.tables import base_instances

OFFLINE = "offline"


@pipeline_asset(group="model", kinds={"torch", "huggingface"}, owner="models", revision=2,
                config=("base_model", "device"), deps=["seed_tasks"])  # fmt: skip
def base_model(step: Step) -> Result:
    """The language model that proposes, answers, judges and is fine-tuned.

    With `base_model.id` = `offline`, a Llama of about a million parameters is trained here from the
    packaged primer and, unless `base_model.learn_seeds` is off, the seeds. Anything else is a
    Hugging Face id, a folder or a .gguf file; its revision and the hash of its files are recorded,
    and a change of either is a new version. It is tried on a sentence first. So that nothing is
    trained in vain, files that later assets of the run read are read here, too.
    """
    config = step.profile.base_model
    _read_later_files(step)
    if config.id != OFFLINE:
        ref = resolve_model(config.id, config.revision)
        if same := step.unchanged(model=ref.fingerprint):
            return same
        with step.runtime() as runtime:
            check_model(ref, runtime.device)
        return step.commit(stages.given_base(config.id, ref))
    if same := step.unchanged():
        return same
    with step.runtime() as runtime:
        made = stages.train_base(step.rows("seed_tasks"), config, runtime)
    return step.commit(made)


def _read_later_files(step: Step) -> None:
    evaluation, judge = step.profile.evaluation, step.profile.judge
    if step.runs("evaluation_report"):
        load_tasks(evaluation.tasks, evaluation.max_instances, evaluation.split)
    if judge.kind == PUBLISHED and step.runs("feedback_judge"):
        find_published_models(judge)


def fine_tuned_model(last: PolicyRound) -> PipelineAsset:
    pool = last.name("filtered_instructions")

    @pipeline_asset(group="model", kinds={"torch", "huggingface"}, owner="models", revision=1,
                    config=("supervised", "device"),
                    deps=["base_model", pool, "instruction_dataset"])  # fmt: skip
    def fine_tuned_model(step: Step) -> Result:
        """The base model fine-tuned with LoRA on the instruction dataset (arm `refine_af`)."""
        return step.unchanged() or _fine_tune(step, last, "refine_af")

    return fine_tuned_model


def baseline_model(last: PolicyRound) -> PipelineAsset:
    instances, pool = base_instances(last).asset, last.name("filtered_instructions")

    @pipeline_asset(group="model", kinds={"torch", "huggingface"}, owner="models", revision=1,
                    config=("supervised", "device"),
                    deps=["seed_tasks", "base_model", pool, instances])  # fmt: skip
    def baseline_model(step: Step) -> Result:
        """Two baselines with the base and budget of the fine-tuned model.

        `self_instruct` learns from the base policy's instances of the same instructions, under the
        same rules and selection; `seeds_only` learns from the seed tasks alone.
        """
        return step.unchanged() or _fine_tune(step, last, "seeds_only", "self_instruct")

    return baseline_model


def _fine_tune(step: Step, last: PolicyRound, *arms: str) -> Result:
    base, config = base_of(step), step.profile.supervised
    steps = steps_for(len(step.rows(last.name("filtered_instructions"))), config)
    with step.runtime() as runtime:
        made = [
            stages.fine_tune(
                step.asset, arm, base, learnt_by(step, arm, last), steps, config, runtime
            )
            for arm in arms
        ]
    return step.commit(joined(made))
