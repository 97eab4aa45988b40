"""Stage 3: the instruction dataset, written by the refined policy."""

import dagster as dg

from assets.sources import policy_after, policy_assets
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.trace_text import as_markdown
from refine_dagster.warehouse.tables import slice_of
from resources.warehouse import WarehouseResource


def instruction_dataset(last: PolicyRound) -> PipelineAsset:
    rounds = last.number
    pool, scale = last.name("filtered_instructions"), "reward_scored_instructions"

    @pipeline_asset(group="dataset", kinds={"huggingface", "duckdb"}, owner="data", revision=2,
                    deps=["seed_tasks", *policy_assets(rounds), "feedback_judge", pool, scale],
                    config=("instances", "reward", "selection", "device"),
                    automated=True)  # fmt: skip
    def instruction_dataset(step: Step) -> Result:
        """The dataset: the refined policy's instance for each accepted instruction, scored,
        selected.

        Every instance, kept or not, is a row of `instance_decisions` with the rule that decided;
        the kept ones are the dataset. Each row names the policy, the judge, the instruction and
        the demonstrations that made it. With several policy rounds, pool and policy are the last
        round's.
        """
        if same := step.unchanged():
            return _with_trace(step, same)
        policy, profile = policy_after(step, rounds), step.profile
        with step.runtime() as runtime, step.feedback(runtime, step.rows(scale)) as feedback:
            written = stages.write_instances(
                policy,
                step.rows(pool),
                step.rows("seed_tasks"),
                feedback,
                profile.instances,
                runtime,
                last,
            )
        judge, table = step.row("feedback_judge"), "instance_decisions"
        decisions = stages.select(table, written, policy, judge, profile.selection)
        return _with_trace(step, step.commit(stages.keep(decisions)))

    return instruction_dataset


def _with_trace(step: Step, result: Result) -> Result:
    """The result with the trace of one committed row, for the UI."""
    row_id = step.warehouse.query("SELECT min(row_id) FROM main.instruction_dataset").item()
    if row_id is None:
        return result
    shown = dg.MetadataValue.md(as_markdown(trace(step.warehouse, row_id)))
    return result._replace(metadata={**(result.metadata or {}), "trace": shown})


def instances_reconcile(last: PolicyRound) -> dg.AssetChecksDefinition:
    pool = slice_of(last.name("filtered_instructions")).live

    @dg.asset_check(asset="instruction_dataset", name="instances_reconcile", blocking=True)
    def reconcile(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """Accepted instructions = kept + rejected instances, and the kept ones are the dataset."""
        counts = warehouse.open().query(
            f"""
            SELECT (SELECT count(*) FROM {pool}) AS instructions,
                   (SELECT count(DISTINCT instruction_id) FROM instance_decisions) AS decisions,
                   (SELECT count(*) FROM instance_decisions WHERE kept) AS kept,
                   (SELECT count(*) FROM instruction_dataset) AS dataset
            """
        )
        instructions, decisions, kept, dataset = counts.row(0)
        return dg.AssetCheckResult(
            passed=instructions == decisions and kept == dataset,
            metadata={name: int(counts[name].item()) for name in counts.columns},
        )

    return reconcile
