"""Stage 1: instructions proposed by a policy, decided on, and kept; once for every policy round.

The candidates that an instructor evolves are made in `assets/evolution.py` and decided on here.
"""

import dagster as dg

from assets.sources import base_of, policy_after, policy_assets
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.language import language_of
from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.tables import slice_of
from resources.warehouse import WarehouseResource


def raw_instructions(policy_round: PolicyRound) -> PipelineAsset:
    before, former = policy_round.number - 1, _former_pool(policy_round)
    proposer = policy_assets(before) if before else ["base_model"]

    @pipeline_asset(name=policy_round.name("raw_instructions"), group="instructions",
                    kinds={"huggingface", "duckdb"}, owner="data", revision=2,
                    config=("self_instruct", "device"), automated=True,
                    deps=["seed_tasks", *proposer, *former])  # fmt: skip
    def candidates(step: Step) -> Result:
        """Candidate instructions, as parsed from what the policy wrote after demonstrations.

        In the first round the policy is the base model, in a later one that of the round before.
        Rounds of requests run until the target is accepted or the loop stalls. Pieces of a
        completion that are no candidate are kept as rows too, with the reason.
        """
        if same := step.unchanged():
            return same
        policy = policy_after(step, before) if before else base_of(step)
        pool = _all(step, former)
        seeds, config = step.rows("seed_tasks"), step.profile.self_instruct
        with step.runtime() as runtime:
            made = stages.propose(policy, seeds, config, runtime, policy_round, pool)
        return step.commit(made)

    return candidates


def instruction_decisions(policy_round: PolicyRound) -> PipelineAsset:
    raw, former = policy_round.name("raw_instructions"), _former_pool(policy_round)
    evolved = _evolved(policy_round)

    @pipeline_asset(name=policy_round.name("instruction_decisions"), group="instructions",
                    kinds={"duckdb"}, owner="data", revision=2, config=("self_instruct",),
                    automated=True, deps=[raw, *evolved, "seed_tasks", *former])  # fmt: skip
    def decisions(step: Step) -> Result:
        """Every candidate with the decision on it: kept, or the rule that rejected it and its
        value.

        Decisions are replayed in full, in slot order, over stored candidates; a change re-decides
        and never re-asks. The nearest text of the pool and its ROUGE-L are kept with each. The pool
        begins with the seeds and, in a later round, with the pool of the round before. In the first
        round, evolved candidates come after all that the Self-Instruct loop proposed, and change
        nothing of the decisions on those.
        """
        if same := step.unchanged():
            return same
        candidates, made, seeds = step.rows(raw), _all(step, evolved), step.rows("seed_tasks")
        config, pool = step.profile.self_instruct, _all(step, former)
        language = language_of(step.profile.language)
        given = config, policy_round, pool, language
        return step.commit(stages.decide(candidates, made, seeds, *given))

    return decisions


def filtered_instructions(policy_round: PolicyRound) -> PipelineAsset:
    raw, former = policy_round.name("raw_instructions"), _former_pool(policy_round)
    decided, evolved = policy_round.name("instruction_decisions"), _evolved(policy_round)

    @pipeline_asset(name=policy_round.name("filtered_instructions"), group="instructions",
                    kinds={"duckdb"}, owner="data", revision=2, automated=True,
                    deps=[raw, *evolved, decided, *former])  # fmt: skip
    def pool(step: Step) -> Result:
        """The accepted instructions: the pool that all policies write instances for.

        Each names the method and the model that it comes from. A later round's pool is the former
        one and what was accepted beside it.
        """
        if same := step.unchanged():
            return same
        candidates, made, decisions = step.rows(raw), _all(step, evolved), step.rows(decided)
        before = _all(step, former)
        return step.commit(stages.accept(candidates, made, decisions, policy_round, before))

    return pool


def _former_pool(policy_round: PolicyRound) -> list[str]:
    return [] if policy_round.is_first else [policy_round.before.name("filtered_instructions")]


def _evolved(policy_round: PolicyRound) -> list[str]:
    """Seeds are evolved in the first round alone."""
    return [EVOLVED] if policy_round.is_first else []


def _all(step: Step, tables: list[str]) -> list[Row]:
    return [row for table in tables for row in step.rows(table)]


def funnel_reconciles(policy_round: PolicyRound) -> dg.AssetChecksDefinition:
    raw = slice_of(policy_round.name("raw_instructions"))
    decisions = slice_of(policy_round.name("instruction_decisions"))
    evolved = (
        f"UNION ALL SELECT method, round, row_id FROM {EVOLVED}" if policy_round.is_first else ""
    )

    @dg.asset_check(asset=decisions.asset, name="funnel_reconciles", blocking=True)
    def reconciles(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """Candidates = kept + rejected + unparsed in every round of the loop and at every place of
        the evolution, one decision for each candidate."""
        broken = warehouse.open().query(
            f"""
            WITH candidates AS (
                SELECT method, round, count(*) AS candidates, count(DISTINCT row_id) AS ids
                FROM (SELECT method, round, row_id FROM {raw.live} {evolved}) GROUP BY ALL
            ), decided AS (
                SELECT method, round, count(*) AS decisions,
                       count(DISTINCT candidate_id) AS ids,
                       count(*) FILTER (kept AND rule = 'kept') AS kept,
                       count(*) FILTER (NOT kept AND rule = 'unparsed') AS failed,
                       count(*) FILTER (NOT kept AND rule NOT IN ('kept', 'unparsed')) AS rejected
                FROM {decisions.live} GROUP BY ALL
            )
            SELECT method, round, candidates, kept, rejected, failed
            FROM candidates FULL JOIN decided USING (method, round)
            WHERE candidates IS DISTINCT FROM kept + rejected + failed
               OR candidates.ids IS DISTINCT FROM decided.ids
            """
        )
        return dg.AssetCheckResult(
            passed=broken.is_empty(), metadata={"rounds_that_do_not": broken.height}
        )

    return reconciles
