"""Models and examples from the rows of earlier assets."""

from __future__ import annotations

from assets.step import Step
from refine_dagster.config.policy_round import PolicyRound, rounds_until
from refine_dagster.evaluation.report import ARMS
from refine_dagster.models.language_model import registered_base, registered_policy
from refine_dagster.runtime import Lesson, Model
from refine_dagster.training.sft import START
from refine_dagster.warehouse.tables import base_instances


def policy_assets(rounds: int) -> list[str]:
    """The base model, the policy's start, and the training of each of so many policy rounds."""
    rounds_trained = (r.name("rl_policy_checkpoint") for r in rounds_until(rounds))
    return ["base_model", START, *rounds_trained]


def base_of(step: Step) -> Model:
    row = step.row("base_model")
    return Model(registered_base(step.checkpoints, row), "base_model", row)


def policy_after(step: Step, rounds: int) -> Model:
    """The policy after so many rounds: each round's update lies on top of those before it, the
    first on the start, or on the base model where the config asks for no start."""
    policy = base_of(step)
    _, start, *trained = policy_assets(rounds)
    if step.profile.instances.start_steps:
        trained = [start, *trained]
    for asset in trained:
        row = step.row(asset)
        ref = registered_policy(step.checkpoints, asset, row["checkpoint_hash"], policy.ref)
        policy = Model(ref, asset, row)
    return policy


def arms_of(step: Step, base: Model) -> dict[str, Model]:
    """Arm -> its fine-tuned model, in the order of `ARMS`."""
    arms = {}
    for asset in ("baseline_model", "fine_tuned_model"):
        for row in step.rows(asset):
            ref = registered_policy(step.checkpoints, asset, row["checkpoint_hash"], base.ref)
            arms[row["arm"]] = Model(ref, asset, row)
    return dict(sorted(arms.items(), key=lambda item: ARMS.index(item[0])))


def learnt_by(step: Step, arm: str, last: PolicyRound) -> Lesson:
    if arm == "self_instruct":
        table = base_instances(last).name
        return Lesson(table, [row for row in step.rows(table) if row["kept"]])
    table = {"seeds_only": "seed_tasks", "refine_af": "instruction_dataset"}[arm]
    return Lesson(table, step.rows(table))
