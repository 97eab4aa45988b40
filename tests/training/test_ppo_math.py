"""PPO's arithmetic against numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy
import pytest

from refine_dagster.training.ppo_math import (
    adapted_coefficient,
    advantages_and_returns,
    clipped_policy_loss,
    clipped_value_loss,
    log_probabilities,
    masked_mean,
    token_rewards,
    whiten,
)


def _tensor(rows: Any) -> Any:
    import torch

    return torch.tensor(rows, dtype=torch.float64)


MASK = [[1, 1, 1], [1, 1, 0]]


def test_the_score_is_paid_at_the_last_token_and_divergence_at_each() -> None:
    kl = _tensor([[0.1, -0.2, 0.4], [0.3, 0.5, 99.0]])
    rewards = token_rewards(_tensor([2.0, -1.0]), kl, _tensor(MASK), 0.5)
    expected = [[-0.05, 0.1, 1.8], [-0.15, -1.25, 0.0]]
    numpy.testing.assert_allclose(rewards, expected, atol=1e-12)


def test_advantages_by_hand() -> None:
    rewards = _tensor([[0.0, 0.0, 1.0], [0.5, -1.0, 0.0]])
    values = _tensor([[0.2, 0.4, 0.6], [0.1, 0.3, 77.0]])
    advantages, returns = advantages_and_returns(rewards, values, _tensor(MASK), 0.9, 0.5)
    # delta = r + 0.9 V' - V:  0.16, 0.14, 0.4  and  0.67, -1.3;  A = delta + 0.45 A'.
    third = 0.4
    second = 0.14 + 0.45 * third
    first = 0.16 + 0.45 * second
    expected = [[first, second, third], [0.67 - 0.45 * 1.3, -1.3, 0.0]]
    numpy.testing.assert_allclose(advantages, expected, atol=1e-12)
    numpy.testing.assert_allclose(
        returns, [[first + 0.2, second + 0.4, 1.0], [0.185, -1.0, 0.0]], atol=1e-12
    )


def test_lambda_one_is_the_return_less_the_value_and_lambda_zero_the_delta() -> None:
    generator = numpy.random.default_rng(3)
    rewards, values = generator.normal(size=(2, 4, 6))
    paid, foretold, mask = _tensor(rewards), _tensor(values), _tensor(numpy.ones((4, 6)))
    whole, _ = advantages_and_returns(paid, foretold, mask, 0.9, 1.0)
    returns = numpy.zeros(7)
    for row in range(4):
        for token in reversed(range(6)):
            returns[token] = rewards[row, token] + 0.9 * returns[token + 1]
        numpy.testing.assert_allclose(whole[row], returns[:6] - values[row], atol=1e-12)
    short, _ = advantages_and_returns(paid, foretold, mask, 0.9, 0.0)
    following = numpy.hstack([values[:, 1:], numpy.zeros((4, 1))])
    numpy.testing.assert_allclose(short, rewards + 0.9 * following - values, atol=1e-12)


def test_padding_changes_nothing() -> None:
    values = _tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 1e9]])
    mask = _tensor(MASK)
    assert float(masked_mean(values, mask)) == 3.0
    white = whiten(values, mask).numpy()
    assert white[1, 2] == 0
    kept = white[numpy.array(MASK) == 1]
    numpy.testing.assert_allclose([kept.mean(), kept.std()], [0, 1], atol=1e-7)


def test_log_probability_and_entropy() -> None:
    logits = _tensor([[[0.0, math.log(3.0)]]])
    import torch

    logs, entropy = log_probabilities(logits, torch.tensor([[1]]))
    assert float(logs) == pytest.approx(math.log(0.75))
    assert float(entropy) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_policy_loss_by_hand() -> None:
    new = _tensor([[math.log(1.1), math.log(1.5), math.log(0.5)]])
    old, advantages = _tensor([[0.0, 0.0, 0.0]]), _tensor([[2.0, 2.0, -1.0]])
    loss = clipped_policy_loss(new, old, advantages, _tensor([[1, 1, 1]]), 0.2)
    # 1.1 is within the range, 1.5 counts as 1.2, 0.5 as 0.8.
    assert float(loss) == pytest.approx(-(1.1 * 2 + 1.2 * 2 - 0.8) / 3)


@pytest.mark.parametrize(
    ("ratio", "advantage", "moves"),
    [
        (1.0, 1.0, True),
        (1.3, 1.0, False),
        (0.7, -1.0, False),
        # Outside, and asked to come back: the gradient stays.
        (1.3, -1.0, True),
        (0.7, 1.0, True),
    ],
)
def test_no_gradient_beyond_the_range(ratio: float, advantage: float, moves: bool) -> None:
    new = _tensor([[math.log(ratio)]]).requires_grad_()
    one = _tensor([[1.0]])
    clipped_policy_loss(new, _tensor([[0.0]]), one * advantage, one, 0.2).backward()
    expected = -ratio * advantage if moves else 0.0
    assert float(new.grad) == pytest.approx(expected)


def test_value_loss_by_hand() -> None:
    values = _tensor([[0.1, 0.9, -0.9]]).requires_grad_()
    old, returns = _tensor([[0.0, 0.0, 0.0]]), _tensor([[1.0, 1.0, 1.0]])
    loss = clipped_value_loss(values, old, returns, _tensor([[1, 1, 1]]), 0.2)
    # 0.9 counts as 0.2, whose error is larger; -0.9 has the larger error unclipped.
    assert float(loss.detach()) == pytest.approx(0.5 * (0.81 + 0.64 + 3.61) / 3)
    loss.backward()
    numpy.testing.assert_allclose(values.grad, [[-0.9 / 3, 0.0, -1.9 / 3]], atol=1e-12)


def test_the_price_of_divergence_moves_both_ways_and_by_a_bounded_share() -> None:
    # 10 % off target, half a horizon: 5 % of the price.
    assert adapted_coefficient(0.2, 0.11, 0.1, 50, 100) == pytest.approx(0.21)
    assert adapted_coefficient(0.2, 0.09, 0.1, 50, 100) == pytest.approx(0.19)
    assert adapted_coefficient(0.2, 0.1, 0.1, 50, 100) == pytest.approx(0.2)
    assert adapted_coefficient(0.2, 9.0, 0.1, 100, 100) == pytest.approx(0.24)
    assert adapted_coefficient(0.2, -9.0, 0.1, 100, 100) == pytest.approx(0.16)
