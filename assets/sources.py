"""What several assets read in the same form: models, seeds and prompts from their rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from assets.step import Step
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound, rounds_until
from refine_dagster.judge.judge import PARTS, Scores
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import Example
from refine_dagster.refine_af.instances import InstancePrompt, instance_prompts, seed_examples
from refine_dagster.self_instruct.decisions import TEAMS_RL, Demonstration, in_slot_order
from refine_dagster.warehouse.rows import Parent, Row
from refine_dagster.warehouse.tables import base_instances
from resources.checkpoints import CheckpointsResource


@dataclass(frozen=True)
class ResolvedPolicy:
    """A policy: the base model, or what a round of training made of it.

    Attributes:
        ref: its files.
        asset: the asset that it is a row of.
        row: that row.
    """

    ref: ModelRef
    asset: str
    row: Row

    def as_parent(self, role: str) -> Parent:
        """Its row as a parent in a role."""
        return Parent(self.asset, self.row["row_id"], role)


def policy_assets(rounds: int) -> list[str]:
    """The assets that the policy after so many rounds is made of: the base model and every
    round's training. After 0 rounds it is the base model."""
    return ["base_model", *(one.name("rl_policy_checkpoint") for one in rounds_until(rounds))]


def policy_after(step: Step, checkpoints: CheckpointsResource, rounds: int) -> ResolvedPolicy:
    """The policy after so many rounds; each round's update lies on top of those before it."""
    base = step.row("base_model")
    policy = ResolvedPolicy(checkpoints.base_model(base), "base_model", base)
    for asset in policy_assets(rounds)[1:]:
        row = step.row(asset)
        ref = checkpoints.adapted_model(asset, row["checkpoint_hash"], policy.ref)
        policy = ResolvedPolicy(ref, asset, row)
    return policy


def example_of(row: Row) -> Example:
    """The instruction, input and output of a row."""
    return Example(row["instruction"], row["input"], row["output"])


def examples_of(rows: list[Row]) -> list[Example]:
    """Examples in an order that depends on their texts alone, not on ids or files."""
    return sorted((example_of(row) for row in rows), key=Example.render)


def demonstrations(step: Step) -> list[Demonstration]:
    """The seed tasks as demonstrations of the proposal prompt."""
    return [
        Demonstration("seed_tasks", row["row_id"], row["seed_id"], row["instruction"])
        for row in step.rows("seed_tasks")
    ]


def former_pool(step: Step, policy_round: PolicyRound) -> list[Demonstration]:
    """The pool of the round before, in slot order; the first round has none."""
    if policy_round.is_first:
        return []
    pool = policy_round.before.name("filtered_instructions")
    return [
        Demonstration(
            pool,
            row["row_id"],
            row["slot"],
            row["instruction"],
            evolved=row["method"] == TEAMS_RL,
        )
        for row in in_slot_order(step.rows(pool))
    ]


def prompts(
    step: Step, count_tokens: Callable[[str], int], policy_round: PolicyRound = FIRST_ROUND
) -> list[InstancePrompt]:
    """The prompt of every instruction of a round's pool, in slot order."""
    pool = policy_round.name("filtered_instructions")
    return instance_prompts(
        in_slot_order(step.rows(pool)),
        seed_examples(step.rows("seed_tasks")),
        count_tokens,
        step.profile.instances,
        step.profile.run_seed,
        pool,
    )


def base_scores(step: Step) -> list[Scores]:
    """The judge's scores of the base policy's valid instances: the scale of whitened rewards."""
    return [
        {part.name: row[part.name] for part in PARTS}
        for row in step.rows("reward_scored_instructions")
        if row["format_valid"]
    ]


def learnt_by(step: Step, arm: str, last: PolicyRound) -> tuple[str, list[Row]]:
    """The table that an arm learns from, and the rows of it that it learns from."""
    if arm == "self_instruct":
        table = base_instances(last).name
        return table, [one for one in step.rows(table) if one["kept"]]
    table = {"seeds_only": "seed_tasks", "refine_af": "instruction_dataset"}[arm]
    return table, step.rows(table)


def as_parent(asset: str, row: Row, role: str) -> Parent:
    """A row as a parent in a role."""
    return Parent(asset, row["row_id"], role)


def device_manifest(device: Device) -> dict[str, Any]:
    """What of the device decides the bytes that training makes."""
    return {
        "name": device.name,
        "dtype": device.dtype,
        "threads": device.threads,
        "deterministic": device.deterministic,
        "quantization": device.quantization,
    }
