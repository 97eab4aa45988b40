"""Stage 3: the instruction dataset, written by the refined policy."""

from typing import Any

import dagster as dg

from assets.feedback import instance_figures
from assets.sources import as_parent, base_scores, policy_after, policy_assets, prompts
from assets.step import Step, materializing
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.trace_text import as_markdown
from refine_dagster.refine_af.instances import Policy, dataset_rows, scored_instances
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.judge import JudgeResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


def instruction_dataset(last: PolicyRound) -> dg.AssetsDefinition:
    """The asset of the dataset: the pool of the last round, answered by its policy."""

    @dg.asset(name="instruction_dataset", group_name="dataset", kinds={"huggingface", "duckdb"},
              owners=["team:data"],
              deps=["seed_tasks", *policy_assets(last.number), "feedback_judge",
                    last.name("filtered_instructions"), "reward_scored_instructions"])  # fmt: skip
    def dataset(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        generator: GeneratorResource,
        judge: JudgeResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """The dataset: the refined policy's instance for each accepted instruction, scored,
        selected.

        Every instance, kept or not, is a row of `instance_decisions` with the rule that decided;
        the kept ones are the dataset. Each row names the policy, the judge, the instruction and
        the demonstrations that made it. With several policy rounds, pool and policy are the last
        round's.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return _with_trace(step, same)
            judge_row = step.row("feedback_judge")
            refined = policy_after(step, checkpoints, last.number)
            with gpu.session(step.profile.device) as device:
                step.device = device
                step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
                with (
                    generator.session(
                        refined.ref, device, step.store, step.profile.generator
                    ) as session,
                    judge.session(
                        judge_row, checkpoints, device, step.profile, base_scores(step)
                    ) as feedback,
                ):
                    decisions = scored_instances(
                        "instance_decisions",
                        prompts(step, session.backend.count_tokens, last),
                        Policy.of(session, refined.as_parent("policy")),
                        feedback,
                        as_parent("feedback_judge", judge_row, "judge"),
                        step.profile.instances,
                        step.profile.selection,
                        step.profile.run_seed,
                    )
            result = step.commit(
                {"instruction_dataset": dataset_rows(decisions), "instance_decisions": decisions},
                figures=instance_figures(decisions),
            )
            return _with_trace(step, result)

    return dataset


def _with_trace(step: Step, result: dg.MaterializeResult[Any]) -> dg.MaterializeResult[Any]:
    """The result with the trace of one committed row, for the UI."""
    row_id = step.warehouse.query("SELECT min(row_id) FROM main.instruction_dataset").item()
    if row_id is None:
        return result
    shown = dg.MetadataValue.md(as_markdown(trace(step.warehouse, row_id)))
    return result._replace(metadata={**(result.metadata or {}), "trace": shown})
