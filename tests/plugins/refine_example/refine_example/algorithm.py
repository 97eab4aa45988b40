"""An algorithm: of each prompt's completions, learn the one with the highest reward."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING, Any

from refine_dagster.generation.decoding import Rollout
from refine_dagster.models.language_model import loaded_model
from refine_dagster.training.policy_steps import (
    EndedBy,
    PolicyStep,
    PolicyTask,
    PolicyTraining,
    StepRewards,
    guard_of,
    reference_policy,
    save_policy,
    trainable,
)
from refine_dagster.training.ppo_math import log_probabilities
from refine_dagster.training.trainer_session import trainer_session

if TYPE_CHECKING:
    from torch import Tensor


def train_by_best_of_group(task: PolicyTask) -> PolicyTraining:
    """Train a policy and save it in `task.out`."""
    import torch

    config, rewards = task.config, StepRewards(task.reward)
    steps: list[PolicyStep] = []
    ended_by: EndedBy | None = None
    task.plan(batch=1)  # announces the memory that it takes, and fails early where there is less
    with (
        trainer_session(task.device, "best of group", task.run_seed) as session,
        loaded_model(task.base, task.device) as loaded,
    ):
        torch.manual_seed(session.seed)
        policy, frozen = trainable(loaded.model, config)
        weights = [weight for weight in policy.parameters() if weight.requires_grad]
        optimiser = torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=0.0)
        while ended_by is None and len(steps) < config.steps:
            number = len(steps) + 1
            prompts = task.prompts_of(number)
            rollouts = task.rollouts(policy, loaded.tokenizer, prompts, number)
            scores = rewards.score(
                [prompt.instruction for prompt in prompts for _ in range(config.group_size)],
                rollouts,
            )
            best = [
                max(range(start, start + config.group_size), key=scores.__getitem__)
                for start in range(0, len(scores), config.group_size)
            ]
            losses, divergences, entropies = [], [], []
            optimiser.zero_grad()
            for rollout in (rollouts[place] for place in best):
                logs, entropy = _read(policy, rollout, config.temperature)
                with torch.no_grad(), reference_policy(policy, frozen) as reference:
                    reference_logs, _ = _read(reference, rollout, config.temperature)
                kl = (logs - reference_logs).mean()
                loss = config.kl_coefficient * kl - logs.mean()
                (loss / len(best)).backward()
                losses.append(loss.item())
                divergences.append(kl.item())
                entropies.append(entropy.mean().item())
            optimiser.step()
            figures = {
                "loss": fmean(losses),
                "kl": fmean(divergences),
                "entropy": fmean(entropies),
                "length": fmean(len(rollout.completion_ids) for rollout in rollouts),
            }
            steps.append(rewards.row(number, figures))
            ended_by = guard_of(steps, config)
        save_policy(policy, loaded.tokenizer, task.out)
    return PolicyTraining(steps, ended_by or "steps")


def _read(model: Any, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability and entropy, in nats, of each token of the completion."""
    import torch

    ids = torch.tensor([[*rollout.prompt_ids, *rollout.completion_ids]], device=model.device)
    count = len(rollout.completion_ids)
    logits = model(input_ids=ids, use_cache=False).logits[:, -count - 1 : -1]
    return log_probabilities(logits / temperature, ids[:, -count:])
