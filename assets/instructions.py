"""Stage 1: instructions proposed by the base model, decided on, and kept."""

from typing import Any

import dagster as dg

from assets.sources import as_parent, demonstrations
from assets.step import materializing
from refine_dagster.self_instruct.decisions import KEPT, InstructionDecider, filtered_rows
from refine_dagster.self_instruct.rounds import Proposer, propose
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@dg.asset(group_name="instructions", kinds={"huggingface", "duckdb"}, owners=["team:data"],
          deps=["seed_tasks", "base_model"])  # fmt: skip
def raw_instructions(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """Candidate instructions, as parsed from what the base model wrote after demonstrations.

    Rounds of requests run until the target is accepted or the loop stalls. Pieces of a completion
    that are no candidate are kept as rows too, with the reason.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged():
            return same
        model = step.row("base_model")
        seeds = demonstrations(step)
        with gpu.session(step.profile.device) as device:
            step.device = device
            step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
            ref = checkpoints.base_model(model)
            with generator.session(ref, device, step.store, step.profile.generator) as session:
                proposer = Proposer(
                    complete=session.complete,
                    count_tokens=session.backend.count_tokens,
                    fingerprint=session.backend.fingerprint,
                    model=session.model,
                    row=as_parent("base_model", model, "generator"),
                )
                made = propose(seeds, proposer, step.profile.self_instruct, step.profile.salt)
        figures = {
            "candidates": len(made.rows),
            "parsed": sum(row["parsed"] for row in made.rows),
            "accepted": made.accepted,
            "rounds": made.rounds,
            "ended_by": made.ended_by,
        }
        return step.commit({"raw_instructions": made.rows}, figures=figures)


@dg.asset(group_name="instructions", kinds={"duckdb"}, owners=["team:data"],
          deps=["raw_instructions", "seed_tasks"])  # fmt: skip
def instruction_decisions(
    context: dg.AssetExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.MaterializeResult[Any]:
    """Every candidate with the decision on it: kept, or the rule that rejected it and its value.

    Decisions are replayed in full, in slot order, over stored candidates; a change re-decides and
    never re-asks. The nearest text of the pool and its ROUGE-L are kept with each.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged():
            return same
        candidates = sorted(step.rows("raw_instructions"), key=lambda row: row["slot"])
        decider = InstructionDecider(demonstrations(step), step.profile.self_instruct)
        rows = decider.decide(candidates)
        figures = {"candidates": len(rows), "kept": sum(row["kept"] for row in rows)}
        rejected = sorted({row["rule"] for row in rows} - {KEPT})
        for rule in rejected:
            figures[f"rejected_{rule}"] = sum(row["rule"] == rule for row in rows)
        return step.commit({"instruction_decisions": rows}, figures=figures)


@dg.asset(group_name="instructions", kinds={"duckdb"}, owners=["team:data"],
          deps=["raw_instructions", "instruction_decisions"])  # fmt: skip
def filtered_instructions(
    context: dg.AssetExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.MaterializeResult[Any]:
    """The accepted instructions: the pool that both policies write instances for."""
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged():
            return same
        rows = filtered_rows(step.rows("raw_instructions"), step.rows("instruction_decisions"))
        return step.commit({"filtered_instructions": rows}, figures={"instructions": len(rows)})
