"""Stage 2: the policy refined by reinforcement learning from automated feedback."""

from assets.declaration import PipelineAsset, pipeline_asset
from assets.sources import policy_after, policy_assets
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.config.policy_round import PolicyRound


def rl_policy_checkpoint(policy_round: PolicyRound) -> PipelineAsset:
    """The asset of a round's training."""
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

        Training begins with the base model, in a later round with the policy of the round before;
        that is also the reference of the KL penalty. An instruction that one round keeps from
        training no other trains on.
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
