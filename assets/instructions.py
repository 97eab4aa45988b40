"""Stage 1: instructions proposed by a policy, decided on, and kept; once for every policy round.

The candidates that an instructor evolves are made in `assets/evolution.py` and decided on here.
"""

from assets.declaration import PipelineAsset, pipeline_asset
from assets.sources import policy_after, policy_assets
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.self_instruct.decisions import EVOLVED
from refine_dagster.warehouse.rows import Row


def raw_instructions(policy_round: PolicyRound) -> PipelineAsset:
    """The asset of a round's candidates."""
    before, former = policy_round.number - 1, _former_pool(policy_round)

    @pipeline_asset(name=policy_round.name("raw_instructions"), group="instructions",
                    kinds={"huggingface", "duckdb"}, owner="data", revision=2,
                    config=("self_instruct", "device"), automated=True,
                    deps=["seed_tasks", *policy_assets(before), *former])  # fmt: skip
    def candidates(step: Step) -> Result:
        """Candidate instructions, as parsed from what the policy wrote after demonstrations.

        In the first round the policy is the base model, in a later one that of the round before.
        Rounds of requests run until the target is accepted or the loop stalls. Pieces of a
        completion that are no candidate are kept as rows too, with the reason.
        """
        if same := step.unchanged():
            return same
        policy, seeds, pool = (
            policy_after(step, before),
            step.rows("seed_tasks"),
            _all(step, former),
        )
        with step.runtime() as runtime:
            config = step.profile.self_instruct
            made = stages.propose(policy, seeds, config, runtime, policy_round, pool)
        return step.commit(made)

    return candidates


def instruction_decisions(policy_round: PolicyRound) -> PipelineAsset:
    """The asset of the decisions on a round's candidates."""
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
        return step.commit(stages.decide(candidates, made, seeds, config, policy_round, pool))

    return decisions


def filtered_instructions(policy_round: PolicyRound) -> PipelineAsset:
    """The asset of a round's pool."""
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
    """The table of the pool of the round before, where there is one."""
    return [] if policy_round.is_first else [policy_round.before.name("filtered_instructions")]


def _evolved(policy_round: PolicyRound) -> list[str]:
    """The table of evolved candidates; seeds are evolved in the first round alone."""
    return [EVOLVED] if policy_round.is_first else []


def _all(step: Step, tables: list[str]) -> list[Row]:
    return [row for table in tables for row in step.rows(table)]
