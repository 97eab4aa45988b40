"""The arithmetic of PPO on sequences, as pure functions of tensors.

Every tensor here is (rollouts, tokens), one column a token of the completion, padded on the right;
`mask` is 1 where there is a token and 0 on padding, and whatever stands on padding changes nothing.
Sources: PPO (arXiv 1707.06347), GAE (arXiv 1506.02438), and for a reward on text with a KL penalty
Ziegler et al. (arXiv 1909.08593).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# Ziegler et al. 2.2: a coefficient changes by at most this share of n / horizon in one update.
LARGEST_KL_ERROR = 0.2
TINY = 1e-8


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens, a scalar tensor; 0 where there are none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def whiten(values: Tensor, mask: Tensor) -> Tensor:
    """Values with mean 0 and variance 1 (of the population) over the tokens; 0 on padding."""
    centred = (values - masked_mean(values, mask)) * mask
    deviation = masked_mean(centred**2, mask).sqrt()
    return centred / (deviation + TINY)


def log_probabilities(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probability of each chosen token and entropy of its distribution, in nats.

    `logits` are (rollouts, tokens, vocabulary), at the position that predicts the token.
    """
    import torch

    logs = torch.log_softmax(logits.float(), dim=-1)
    chosen = logs.gather(-1, ids.unsqueeze(-1)).squeeze(-1)
    return chosen, -(logs.exp() * logs).sum(-1)


def token_rewards(scores: Tensor, kl: Tensor, mask: Tensor, coefficient: float) -> Tensor:
    """Reward of each token: minus its KL penalty; on the last, plus the completion's score.

    `scores` are (rollouts,); `kl` is the log-probability under the policy less that under the
    reference; `coefficient` the penalty for one nat (Ziegler et al., equation 2).
    """
    import torch

    rewards = -coefficient * kl * mask
    last = mask.sum(1).long() - 1
    rows = torch.arange(len(scores), device=rewards.device)
    rewards[rows, last] = rewards[rows, last] + scores
    return rewards


def advantages_and_returns(
    rewards: Tensor, values: Tensor, mask: Tensor, discount: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates, and the returns that the value head should have predicted.

    With delta_t = r_t + discount * V_{t+1} - V_t, the advantage is A_t = delta_t + discount *
    gae_lambda * A_{t+1} (arXiv 1506.02438, equation 16), and the return is A_t + V_t. After the
    last token nothing follows: V and A are 0 there.
    """
    import torch

    values = values * mask
    advantages = torch.zeros_like(rewards)
    following_value = following_advantage = torch.zeros_like(rewards[:, 0])
    for token in reversed(range(rewards.shape[1])):
        delta = rewards[:, token] + discount * following_value - values[:, token]
        following_advantage = (delta + discount * gae_lambda * following_advantage) * mask[:, token]
        following_value = values[:, token]
        advantages[:, token] = following_advantage
    return advantages, advantages + values


def clipped_policy_loss(
    new: Tensor, old: Tensor, advantages: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """-min(ratio * A, clip(ratio, 1 - clip_range, 1 + clip_range) * A), mean over the tokens.

    The ratio of a token's probabilities is exp(new - old) (arXiv 1707.06347, equation 7). Where it
    has left the range in the direction that its advantage asks for, there is no gradient.
    """
    import torch

    ratio = (new - old).exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    return masked_mean(-torch.minimum(ratio * advantages, clipped * advantages), mask)


def clipped_value_loss(
    values: Tensor, old: Tensor, returns: Tensor, mask: Tensor, clip_range: float
) -> Tensor:
    """Half the squared error to the returns, or of the value kept within `clip_range` of the old.

    The larger of the two counts, so a value gains nothing by leaving the range in one step.
    """
    import torch

    near = old + (values - old).clamp(-clip_range, clip_range)
    errors = torch.maximum((values - returns) ** 2, (near - returns) ** 2)
    return 0.5 * masked_mean(errors, mask)


def adapted_coefficient(
    coefficient: float, kl: float, target: float, count: int, horizon: int
) -> float:
    """The KL coefficient of the next step (Ziegler et al., 2.2).

    It rises where `kl` is above `target` and falls where it is below, both in nats a token, by a
    share of the relative error, cut at 20 %, times `count / horizon`: completions that `kl` was
    measured on over those in which a whole correction is spread.
    """
    error = min(max(kl / target - 1, -LARGEST_KL_ERROR), LARGEST_KL_ERROR)
    return coefficient * (1 + error * count / horizon)
