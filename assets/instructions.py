"""Stage 1: instructions proposed by a policy, decided on, and kept; once for every policy round.

The candidates that an instructor evolves are made in `assets/evolution.py` and decided on here.
"""

from typing import Any

import dagster as dg

from assets.sources import demonstrations, former_pool, policy_after, policy_assets
from assets.step import materializing
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.self_instruct.decisions import (
    EVOLVED,
    KEPT,
    InstructionDecider,
    filtered_rows,
)
from refine_dagster.self_instruct.rounds import Proposer, propose
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


def raw_instructions(policy_round: PolicyRound) -> dg.AssetsDefinition:
    """The asset of a round's candidates."""
    first = policy_round.is_first
    proposed_by = policy_assets(policy_round.number - 1)
    pool = [] if first else [policy_round.before.name("filtered_instructions")]

    @dg.asset(name=policy_round.name("raw_instructions"), group_name="instructions",
              kinds={"huggingface", "duckdb"}, owners=["team:data"],
              deps=["seed_tasks", *proposed_by, *pool])  # fmt: skip
    def candidates(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        generator: GeneratorResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """Candidate instructions, as parsed from what the policy wrote after demonstrations.

        In the first round the policy is the base model, in a later one that of the round before.
        Rounds of requests run until the target is accepted or the loop stalls. Pieces of a
        completion that are no candidate are kept as rows too, with the reason.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return same
            policy = policy_after(step, checkpoints, policy_round.number - 1)
            seeds = demonstrations(step)
            with gpu.session(step.profile.device) as device:
                step.device = device
                step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
                with generator.session(
                    policy.ref, device, step.store, step.profile.generator
                ) as session:
                    proposer = Proposer(
                        complete=session.complete,
                        count_tokens=session.backend.count_tokens,
                        key_of=session.key_of,
                        model=session.model,
                        row=policy.as_parent("generator"),
                    )
                    made = propose(
                        seeds,
                        proposer,
                        step.profile.self_instruct,
                        step.profile.run_seed,
                        policy_round,
                        former_pool(step, policy_round),
                    )
            figures = {
                "candidates": len(made.rows),
                "parsed": sum(row["parsed"] for row in made.rows),
                "accepted": made.accepted,
                "rounds": made.rounds,
                "ended_by": made.ended_by,
            }
            return step.commit({step.asset: made.rows}, figures=figures)

    return candidates


def instruction_decisions(policy_round: PolicyRound) -> dg.AssetsDefinition:
    """The asset of the decisions on a round's candidates."""
    raw = policy_round.name("raw_instructions")
    evolved = [EVOLVED] if policy_round.is_first else []
    pool = [] if policy_round.is_first else [policy_round.before.name("filtered_instructions")]

    @dg.asset(name=policy_round.name("instruction_decisions"), group_name="instructions",
              kinds={"duckdb"}, owners=["team:data"],
              deps=[raw, *evolved, "seed_tasks", *pool])  # fmt: skip
    def decisions(
        context: dg.AssetExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """Every candidate with the decision on it: kept, or the rule that rejected it and its
        value.

        Decisions are replayed in full, in slot order, over stored candidates; a change re-decides
        and never re-asks. The nearest text of the pool and its ROUGE-L are kept with each. The pool
        begins with the seeds and, in a later round, with the pool of the round before. In the first
        round, evolved candidates come after all that the Self-Instruct loop proposed, and change
        nothing of the decisions on those.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return same
            candidates = sorted(step.rows(raw), key=lambda row: row["slot"])
            decider = InstructionDecider(
                [*demonstrations(step), *former_pool(step, policy_round)],
                step.profile.self_instruct,
                policy_round,
            )
            made = [row for table in evolved for row in step.rows(table)]
            rows = decider.decide(candidates)
            rows += decider.decide_evolved(sorted(made, key=lambda row: row["slot"]))
            figures = {"candidates": len(rows), "kept": sum(row["kept"] for row in rows)}
            if made:
                figures["kept_evolved"] = sum(row["kept"] for row in rows[len(candidates) :])
            rejected = sorted({row["rule"] for row in rows} - {KEPT})
            for rule in rejected:
                figures[f"rejected_{rule}"] = sum(row["rule"] == rule for row in rows)
            return step.commit({step.asset: rows}, figures=figures)

    return decisions


def filtered_instructions(policy_round: PolicyRound) -> dg.AssetsDefinition:
    """The asset of a round's pool."""
    raw = policy_round.name("raw_instructions")
    decided = policy_round.name("instruction_decisions")
    evolved = [EVOLVED] if policy_round.is_first else []
    former = [] if policy_round.is_first else [policy_round.before.name("filtered_instructions")]

    @dg.asset(name=policy_round.name("filtered_instructions"), group_name="instructions",
              kinds={"duckdb"}, owners=["team:data"],
              deps=[raw, *evolved, decided, *former])  # fmt: skip
    def pool(
        context: dg.AssetExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
    ) -> dg.MaterializeResult[Any]:
        """The accepted instructions: the pool that all policies write instances for.

        Each names the method and the model that it comes from. A later round's pool is the former
        one and what was accepted beside it.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged():
                return same
            taken_over = [row for table in former for row in step.rows(table)]
            rows = filtered_rows(
                step.rows(raw),
                step.rows(decided),
                policy_round,
                taken_over,
                [row for table in evolved for row in step.rows(table)],
            )
            figures = {"instructions": len(rows)}
            if former:
                figures["accepted_in_this_round"] = len(rows) - len(taken_over)
            return step.commit({step.asset: rows}, figures=figures)

    return pool
