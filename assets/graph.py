"""The assets of the pipeline, without the SQL models."""

from __future__ import annotations

from functools import cache

from assets.dataset import instruction_dataset
from assets.evaluation import evaluation_report
from assets.evolution import evolved_instructions, instructor_policy
from assets.facts import Facts
from assets.feedback import feedback_judge, reward_scored_instructions
from assets.instructions import filtered_instructions, instruction_decisions, raw_instructions
from assets.models import base_model, baseline_model, fine_tuned_model
from assets.policy import policy_start, rl_policy_checkpoint
from assets.privacy import privacy_report
from assets.seeds import seed_tasks
from assets.step import PipelineAsset
from refine_dagster.config.policy_round import PolicyRound, rounds_until

OF_EVERY_ROUND = (
    raw_instructions,
    instruction_decisions,
    filtered_instructions,
    reward_scored_instructions,
    rl_policy_checkpoint,
)


def facts(rounds: int = 1) -> dict[str, Facts]:
    return {asset.facts.key: asset.facts for asset in pipeline(rounds)}


@cache
def pipeline(rounds: int = 1) -> tuple[PipelineAsset, ...]:
    """The assets of a graph of so many policy rounds, each after those that it reads."""
    last = PolicyRound(rounds)
    proposed, *others = (
        asset(policy_round) for policy_round in rounds_until(rounds) for asset in OF_EVERY_ROUND
    )
    return (
        seed_tasks,
        base_model,
        feedback_judge,
        instructor_policy,
        proposed,
        evolved_instructions,
        policy_start,
        *others,
        instruction_dataset(last),
        fine_tuned_model(last),
        baseline_model(last),
        evaluation_report,
        privacy_report(last),
    )
