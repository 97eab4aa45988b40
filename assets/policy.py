"""Stage 2: the policy refined by reinforcement learning from automated feedback."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg

from assets.preview import line_plots
from assets.sources import as_parent, device_manifest, prompts
from assets.step import Step, materializing, parents
from refine_dagster.device import Device
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.content import content_id
from refine_dagster.lineage.rows import Parent, Row, make_row
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.gain import mean_rewards
from refine_dagster.refine_af.instances import InstancePrompt
from refine_dagster.training.policy_gain import Gain, held_out_split, paired_gain
from refine_dagster.training.reinforcement import PolicyPrompt, train_policy
from resources.checkpoints import CheckpointsResource
from resources.generator import GeneratorResource
from resources.gpu import GpuResource
from resources.judge import JudgeResource
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource

_PLOTTED = (
    "reward", "naturalness", "coherence", "understandability", "reward_model", "format_valid",
    "kl", "entropy", "length", "diversity",
)  # fmt: skip


@dg.asset(group_name="policy", kinds={"torch", "huggingface"}, owners=["team:models"],
          deps=["seed_tasks", "base_model", "feedback_judge", "filtered_instructions",
                "reward_scored_instructions"])  # fmt: skip
def rl_policy_checkpoint(
    context: dg.AssetExecutionContext,
    profile: ProfileResource,
    warehouse: WarehouseResource,
    gpu: GpuResource,
    generator: GeneratorResource,
    judge: JudgeResource,
    checkpoints: CheckpointsResource,
) -> dg.MaterializeResult[Any]:
    """A LoRA policy trained to write instances that the judge rewards (GRPO, REFINE-AF stage 2).

    Reward is the judge's parts weighed by the reward rule, behind the format gate. A share of the
    instructions is kept from training; the gain is the mean paired difference of reward on those,
    before and after, with its bootstrap interval. Every step's figures are rows.
    """
    with materializing(context, profile, warehouse) as step:
        if same := step.unchanged(checkpoints):
            return same
        model, judge_row = step.row("base_model"), step.row("feedback_judge")
        base = checkpoints.base_model(model)
        knobs, salt = step.profile.reinforcement, step.profile.salt
        with gpu.session(step.profile.device) as device:
            step.device = device
            step.store = generator.store(step.warehouse, step.run_id, step.profile.generator)
            with (
                generator.session(base, device, step.store, step.profile.generator) as session,
                judge.session(judge_row, checkpoints, device, step.profile.reward) as feedback,
            ):
                pool = {
                    one.instruction["row_id"]: one
                    for one in prompts(step, session.backend.count_tokens)
                }
                by_text = {one.instruction["instruction"]: key for key, one in pool.items()}
                training, held_out = (
                    [pool[by_text[text]] for text in texts]
                    for texts in held_out_split(by_text, knobs.held_out_share, salt)
                )
                samples = knobs.held_out_samples
                before = mean_rewards(
                    held_out, session.complete, feedback, step.profile.instances, samples, salt
                )
            with judge.session(judge_row, checkpoints, device, step.profile.reward) as feedback:
                manifest = {
                    "knobs": knobs.model_dump(),
                    "instances": step.profile.instances.model_dump(),
                    "reward": step.profile.reward.model_dump(),
                    "salt": salt,
                    "device": device_manifest(device),
                    "base": base.fingerprint,
                    "judge": judge_row["fingerprint"],
                    "prompts": sorted(one.prompt for one in training),
                }

                def train(out: Path) -> dict[str, Any]:
                    return _train(step, base, training, feedback, out, device)

                checkpoint = checkpoints.store().train_or_reuse(step.asset, manifest, train)
                policy = checkpoints.adapted_model(step.asset, checkpoint.content_hash, base)
                with generator.session(
                    policy, device, step.store, step.profile.generator
                ) as session:
                    after = mean_rewards(
                        held_out, session.complete, feedback, step.profile.instances, samples, salt
                    )
        gain = paired_gain(before, after, salt=salt)
        row = make_row(
            "rl_policy_checkpoint",
            {
                "policy": policy.fingerprint,
                "algorithm": knobs.algorithm,
                "preset": step.profile.reward.preset,
                "checkpoint_hash": checkpoint.content_hash,
                "steps": len(checkpoint.record["steps"]),
                "held_out_prompts": len(held_out),
                "reward_before": sum(before) / len(before),
                "reward_after": sum(after) / len(after),
                "gain": gain.mean,
                "gain_low": gain.low,
                "gain_high": gain.high,
            },
            _parents(model, judge_row, training, held_out),
        )
        steps = [
            make_row(
                "rl_policy_checkpoint_steps", one, [Parent(step.asset, row["row_id"], "policy")]
            )
            for one in checkpoint.record["steps"]
        ]
        plots = {name: [float(one[name] or 0.0) for one in steps] for name in _PLOTTED}
        return step.commit(
            {"rl_policy_checkpoint": [row], "rl_policy_checkpoint_steps": steps},
            checkpoints=[checkpoint],
            figures={**_figures(row, gain), "checkpoint_reused": checkpoint.reused},
            metadata={"training": dg.MetadataValue.md(line_plots(plots, across="step"))},
        )


def _train(
    step: Step,
    base: ModelRef,
    training: list[InstancePrompt],
    feedback: Feedback,
    out: Path,
    device: Device,
) -> dict[str, Any]:
    asked = [
        PolicyPrompt(
            content_id("prompt", one.instruction["instruction"]),
            one.instruction["instruction"],
            one.prompt,
        )
        for one in training
    ]
    profile = step.profile
    trained = train_policy(
        base, asked, feedback, profile.reinforcement, profile.instances, out, device, profile.salt
    )
    return asdict(trained)


def _parents(
    model: Row, judge: Row, training: list[InstancePrompt], held_out: list[InstancePrompt]
) -> list[Parent]:
    instructions = [one.instruction for one in training]
    measured = [one.instruction for one in held_out]
    return [
        as_parent("base_model", model, "base"),
        as_parent("feedback_judge", judge, "judge"),
        *parents(instructions, "filtered_instructions", "trained_on"),
        *parents(measured, "filtered_instructions", "measured_on"),
        *(
            Parent("seed_tasks", seed.row_id, "demonstration")
            for one in (*training, *held_out)
            for seed in one.shown
        ),
    ]


def _figures(row: Row, gain: Gain) -> dict[str, float]:
    return {
        "reward_before": row["reward_before"],
        "reward_after": row["reward_after"],
        "gain": gain.mean,
        "gain_low": gain.low,
        "gain_high": gain.high,
        "steps": row["steps"],
    }
