"""Stage 2: the policy refined by reinforcement learning from automated feedback."""

from statistics import fmean

import dagster as dg

from assets.sources import base_of, policy_after, policy_assets
from assets.step import PipelineAsset, Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.runtime import Made
from refine_dagster.training.sft import START
from refine_dagster.warehouse.tables import slice_of
from refine_dagster.warehouse.warehouse import Warehouse
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@pipeline_asset(group="policy", kinds={"torch", "huggingface"}, owner="models", revision=1,
                config=("instances", "supervised", "device"),
                deps=["seed_tasks", "base_model"])  # fmt: skip
def policy_start(step: Step) -> Result:
    """What the policy that writes instances starts from, if that is not the base model.

    With `instances.start_steps`, a short fine-tuning of the base model on the seeds, in the words
    of the prompt for an instance. The policy then knows the format, and no prompt shows examples.
    Without, as published, there is no start and no row.
    """
    if same := step.unchanged():
        return same
    sampling, config = step.profile.instances, step.profile.supervised
    if not sampling.start_steps:
        return step.commit(Made({START: [], f"{START}_steps": []}))
    base, seeds = base_of(step), step.rows("seed_tasks")
    with step.runtime() as runtime:
        made = stages.start_policy(base, seeds, sampling, config, runtime)
    return step.commit(made)


def rl_policy_checkpoint(policy_round: PolicyRound) -> PipelineAsset:
    before, pool = policy_round.number - 1, policy_round.name("filtered_instructions")
    scale = "reward_scored_instructions"

    @pipeline_asset(name=policy_round.name("rl_policy_checkpoint"), group="policy",
                    kinds={"torch", "huggingface"}, owner="models",
                    deps=["seed_tasks", *policy_assets(before), "feedback_judge", pool, scale],
                    config=("instances", "reward", "reinforcement", "device"),
                    revision=4)  # fmt: skip
    def trained(step: Step) -> Result:
        """A policy trained to write instances that the judge rewards (REFINE-AF stage 2).

        Reward is the judge's parts weighed by the reward rule, behind the format gate. A share of
        the instructions is kept from training; the gain is the mean paired difference of reward on
        those, before and after, with its bootstrap interval. Every step's figures are rows;
        `ended_by` names the guard that ended the training early, `steps` where none did.

        Training begins with the base model or `policy_start`, in a later round with the policy of
        the round before; that is also the reference of the KL penalty. An instruction that one
        round keeps from training no other trains on.
        """
        if same := step.unchanged():
            return same
        profile = step.profile
        with step.runtime() as runtime, step.feedback(runtime, step.rows(scale)) as feedback:
            made = stages.refine_policy(
                policy_after(step, before),
                step.rows(pool),
                step.rows("seed_tasks"),
                step.row("feedback_judge"),
                feedback,
                profile.reinforcement,
                profile.reward,
                profile.instances,
                runtime,
                policy_round,
            )
        return step.commit(made)

    return trained


def kl_within_bound(policy_round: PolicyRound = FIRST_ROUND) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"), name="kl_within_bound", blocking=True
    )
    def within_bound(profile: ProfileResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The trained policy is still near the policy that it began as: the mean KL of its last
        steps is at most `reinforcement.max_kl`. Farther away, the judge scores texts unlike those
        it was made for."""
        config = profile.load().reinforcement
        ends = _ends(warehouse.open(), policy_round, "kl", config.guard_window)
        return dg.AssetCheckResult(
            passed=ends is not None and ends[1] <= config.max_kl,
            metadata={"bound": config.max_kl, **({"kl": ends[1]} if ends else {})},
        )

    return within_bound


def diversity_above_floor(policy_round: PolicyRound = FIRST_ROUND) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"), name="diversity_above_floor", blocking=True
    )
    def above_floor(profile: ProfileResource, warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The policy has not collapsed: the mean diversity of its last steps is at least
        `reinforcement.min_diversity_share` of that of its first ones."""
        config = profile.load().reinforcement
        ends = _ends(warehouse.open(), policy_round, "diversity", config.guard_window)
        if ends is None:
            return dg.AssetCheckResult(passed=False, metadata={"steps": 0})
        floor = config.min_diversity_share * ends[0]
        return dg.AssetCheckResult(
            passed=ends[1] >= floor,
            metadata={"floor": floor, "diversity": ends[1], "diversity_at_first": ends[0]},
        )

    return above_floor


def _ends(
    warehouse: Warehouse, policy_round: PolicyRound, figure: str, window: int
) -> tuple[float, float] | None:
    """Means of a figure over the first and over the last `window` of the policy's steps."""
    steps = slice_of(policy_round.name("rl_policy_checkpoint_steps")).live
    values = warehouse.query(
        f"SELECT {figure} FROM {steps} WHERE {figure} IS NOT NULL ORDER BY step"
    )[figure]
    if values.is_empty():
        return None
    return fmean(values.head(window)), fmean(values.tail(window))


@dg.asset_check(asset="rl_policy_checkpoint", blocking=True)
def reward_rose(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The held-out reward rose by more than its bootstrap interval: the lower bound is over 0."""
    gain = _gain(warehouse, FIRST_ROUND)
    return dg.AssetCheckResult(passed=bool(gain) and gain["gain_low"] > 0, metadata=gain)


def reward_not_fallen(policy_round: PolicyRound) -> dg.AssetChecksDefinition:
    @dg.asset_check(
        asset=policy_round.name("rl_policy_checkpoint"), name="reward_not_fallen", blocking=True
    )
    def not_fallen(warehouse: WarehouseResource) -> dg.AssetCheckResult:
        """The held-out reward did not fall in this round: the upper bound of the gain's interval is
        not below 0. It need not rise again, as the first round may have taken what there was."""
        gain = _gain(warehouse, policy_round)
        return dg.AssetCheckResult(passed=bool(gain) and gain["gain_high"] >= 0, metadata=gain)

    return not_fallen


def _gain(warehouse: WarehouseResource, policy_round: PolicyRound) -> dict[str, float]:
    """The held-out reward before and after a round's training; empty where there was none."""
    rows = warehouse.open().query(
        "SELECT reward_before, reward_after, gain, gain_low, gain_high "
        f"FROM {slice_of(policy_round.name('rl_policy_checkpoint')).live}"
    )
    return {name: float(rows[name].item()) for name in rows.columns} if rows.height else {}
