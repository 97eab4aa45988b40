"""Stage 2: the policy refined by reinforcement learning from automated feedback.

A later policy round trains a further LoRA update on top of those of the rounds before, which are
merged in; no optimiser state is carried over. So the reference of the KL penalty, the model with
the round's own update switched off, is the policy that the round began with: it bounds what one
round may change, and `reinforcement.max_kl` is a bound per round, not on the way from the base
model. The scale of the rewards stays that of the base model's scores in the first round, so that
rewards of all rounds compare.
"""

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import dagster as dg

from assets.sources import (
    ResolvedPolicy,
    as_parent,
    base_scores,
    device_manifest,
    policy_after,
    policy_assets,
    prompts,
)
from assets.step import Step, materializing
from refine_dagster.config.policy_round import PolicyRound
from refine_dagster.config.registered import plug_ins_of
from refine_dagster.draws import held_out_split
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import InstancePrompt, mean_rewards
from refine_dagster.statistics import paired_gain
from refine_dagster.training.colocated_engine import engine_for
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from refine_dagster.warehouse.rows import Parent, Row, make_row
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.judge import JudgeResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


def rl_policy_checkpoint(policy_round: PolicyRound) -> dg.AssetsDefinition:
    """The asset of a round's training."""
    pool = policy_round.name("filtered_instructions")

    @dg.asset(name=policy_round.name("rl_policy_checkpoint"), group_name="policy",
              kinds={"torch", "huggingface"}, owners=["team:models"],
              deps=["seed_tasks", *policy_assets(policy_round.number - 1), "feedback_judge", pool,
                    "reward_scored_instructions"])  # fmt: skip
    def trained(
        context: dg.AssetExecutionContext,
        profile: ProfileResource,
        warehouse: WarehouseResource,
        gpu: GpuResource,
        generator: GeneratorResource,
        judge: JudgeResource,
        checkpoints: CheckpointsResource,
    ) -> dg.MaterializeResult[Any]:
        """A policy trained to write instances that the judge rewards (REFINE-AF stage 2).

        Reward is the judge's parts weighed by the reward rule, behind the format gate. A share of
        the instructions is kept from training; the gain is the mean paired difference of reward on
        those, before and after, with its bootstrap interval. Every step's figures are rows;
        `ended_by` names the guard that ended the training early, `steps` where none did.

        Training begins with the base model, in a later round with the policy of the round before;
        that is also the reference of the KL penalty. An instruction that one round keeps from
        training no other trains on.
        """
        with materializing(context, profile, warehouse) as step:
            if same := step.unchanged(checkpoints):
                return same
            return _materialize(step, policy_round, gpu, generator, judge, checkpoints)

    return trained


def _materialize(
    step: Step,
    policy_round: PolicyRound,
    gpu: GpuResource,
    generator: GeneratorResource,
    judge: JudgeResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    judge_row = step.row("feedback_judge")
    start = policy_after(step, checkpoints, policy_round.number - 1)
    lend = partial(generator.session, profile=step.profile.generator)
    with (
        gpu.session(step.profile.device) as device,
        judge.session(judge_row, checkpoints, device, step.profile, base_scores(step)) as feedback,
    ):
        step.device = device
        step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
        with lend(start.ref, device, step.store) as session:
            training, held_out = _split(step, session, policy_round)
            before = _rewards(step, session, held_out, feedback)
        run_seed = policy_round.run_seed(step.profile.run_seed)
        manifest = _manifest(step, device, start.ref, judge_row, feedback, training, run_seed)
        store = checkpoints.store()
        resume = store.resume_folder(step.asset, manifest)
        checkpoint = store.train_or_reuse(
            step.asset,
            manifest,
            partial(_train, step, start.ref, training, feedback, device, run_seed, resume),
        )
        policy = checkpoints.adapted_model(step.asset, checkpoint.content_hash, start.ref)
        with lend(policy, device, step.store) as session:
            after = _rewards(step, session, held_out, feedback)
    gain = paired_gain(before, after, run_seed=step.profile.run_seed)
    row = make_row(
        step.asset,
        {
            "policy": policy.fingerprint,
            "algorithm": step.profile.reinforcement.algorithm,
            "preset": step.profile.reward.preset,
            "checkpoint_hash": checkpoint.content_hash,
            "steps": len(checkpoint.record["steps"]),
            "held_out_prompts": len(held_out),
            "reward_before": fmean(before),
            "reward_after": fmean(after),
            "gain": gain.mean,
            "gain_low": gain.low,
            "gain_high": gain.high,
        },
        _parents(start, judge_row, training, held_out),
    )
    owner = Parent(step.asset, row["row_id"], "policy")
    log = policy_round.name("rl_policy_checkpoint_steps")
    steps = [make_row(log, one, [owner]) for one in checkpoint.record["steps"]]
    told = ("reward_before", "reward_after", "gain", "gain_low", "gain_high", "steps")
    return step.commit(
        {step.asset: [row], log: steps},
        checkpoints=[checkpoint],
        figures={name: row[name] for name in told}
        | {
            "ended_by": checkpoint.record["ended_by"],
            "checkpoint_reused": checkpoint.reused,
        },
    )


def _split(
    step: Step, session: GeneratorSession, policy_round: PolicyRound
) -> tuple[list[InstancePrompt], list[InstancePrompt]]:
    """Prompts to train on and prompts to measure on, by each instruction's own hash."""
    pool = {
        one.instruction["instruction"]: one
        for one in prompts(step, session.backend.count_tokens, policy_round)
    }
    share = step.profile.reinforcement.held_out_share
    training, held_out = held_out_split(pool, share, step.profile.run_seed)
    return [pool[text] for text in training], [pool[text] for text in held_out]


def _rewards(
    step: Step, session: GeneratorSession, held_out: list[InstancePrompt], feedback: Feedback
) -> list[float]:
    samples = step.profile.reinforcement.held_out_samples
    return mean_rewards(
        held_out, session.complete, feedback, step.profile.instances, samples, step.profile.run_seed
    )


def _manifest(
    step: Step,
    device: Device,
    base: ModelRef,
    judge: Row,
    feedback: Feedback,
    training: list[InstancePrompt],
    run_seed: str,
) -> dict[str, Any]:
    config = step.profile.reinforcement
    engine = engine_for(config, device)
    # How often a state is saved does not change the result; of the engines the one that is taken.
    aside = {"save_every", "rollout_engine", "vllm_memory_share"}
    return {
        "knobs": config.model_dump(exclude=aside),
        **plug_ins_of(config, step.profile.reward),
        **({} if engine == "policy" else {"rollout_engine": engine}),
        "instances": step.profile.instances.model_dump(),
        "rule": feedback.rule.manifest(),
        "invalid_reward": feedback.invalid_reward,
        "salt": run_seed,
        "device": device_manifest(device),
        "base": base.fingerprint,
        "judge": judge["fingerprint"],
        "prompts": sorted(one.prompt for one in training),
    }


def _train(
    step: Step,
    base: ModelRef,
    training: list[InstancePrompt],
    feedback: Feedback,
    device: Device,
    run_seed: str,
    resume: Path,
    out: Path,
) -> dict[str, Any]:
    asked = [PolicyPrompt.of(one.instruction["instruction"], one.prompt) for one in training]
    profile = step.profile
    trained = train_policy(
        base,
        asked,
        feedback,
        profile.reinforcement,
        profile.instances,
        out,
        device,
        run_seed,
        resume,
    )
    return trained.record()


def _parents(
    start: ResolvedPolicy,
    judge: Row,
    training: list[InstancePrompt],
    held_out: list[InstancePrompt],
) -> list[Parent]:
    return [
        start.as_parent("base"),
        as_parent("feedback_judge", judge, "judge"),
        *(Parent(one.pool, one.instruction["row_id"], "trained_on") for one in training),
        *(Parent(one.pool, one.instruction["row_id"], "measured_on") for one in held_out),
        *(
            Parent("seed_tasks", seed.row_id, "demonstration")
            for one in (*training, *held_out)
            for seed in one.shown
        ),
    ]
