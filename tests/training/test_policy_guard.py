"""Guards end a training for a named reason, and leave a healthy one alone."""

from __future__ import annotations

from collections.abc import Sequence

from refine_dagster.config.learning import ReinforcementConfig
from refine_dagster.training.policy_steps import PolicyStep, guard_of

CONFIG = ReinforcementConfig(guard_window=3)


def _steps(
    count: int,
    *,
    kl: Sequence[float] = (0.0, 0.3),
    reward: Sequence[float] = (0.0, 1.0),
    diversity: Sequence[float] = (0.6, 0.5),
    valid: Sequence[float] = (0.9, 0.9),
) -> list[PolicyStep]:
    """Steps whose figures go from the first value of a pair to the second in a straight line."""

    def at(pair: Sequence[float], number: int) -> float:
        return pair[0] + (pair[1] - pair[0]) * number / (count - 1)

    return [
        PolicyStep(
            step=number + 1,
            reward=at(reward, number),
            parts={"coherence": 0.5},
            format_valid=at(valid, number),
            kl=at(kl, number),
            entropy=1.0,
            length=10.0,
            diversity=at(diversity, number),
            loss=0.0,
        )
        for number in range(count)
    ]


def test_a_healthy_training_goes_on() -> None:
    steps = _steps(40)
    assert [guard_of(steps[:count], CONFIG) for count in range(41)] == [None] * 41


def test_divergence_above_its_bound() -> None:
    steps = _steps(40, kl=(0.0, 3.9))
    ended = [guard_of(steps[:count], CONFIG) for count in range(41)]
    # A step's divergence is 0.1 times its place: the mean of places 10, 11 and 12 is above 1.
    assert ended[12] is None
    assert ended[13:] == ["kl"] * 28


def test_one_wild_step_is_noise() -> None:
    wild = _steps(9, kl=(0.1, 0.1))
    wild[4] = _steps(9, kl=(2.0, 2.0))[4]
    assert guard_of(wild[:5], CONFIG) is None
    assert guard_of(wild, CONFIG) is None


def test_rising_reward_with_falling_diversity() -> None:
    assert guard_of(_steps(20, diversity=(0.6, 0.1)), CONFIG) == "diversity"
    assert guard_of(_steps(20, diversity=(0.6, 0.3)), CONFIG) is None
    # Falling diversity that earns nothing is no hacking of the reward.
    assert guard_of(_steps(20, diversity=(0.6, 0.1), reward=(1.0, 0.0)), CONFIG) is None


def test_rising_share_of_invalid_format() -> None:
    assert guard_of(_steps(20, valid=(0.9, 0.4)), CONFIG) == "invalid_format"
    assert guard_of(_steps(20, valid=(0.9, 0.7)), CONFIG) is None
    # A policy that never kept the format has not lost it.
    assert guard_of(_steps(20, valid=(0.1, 0.1)), CONFIG) is None


def test_nothing_is_compared_before_there_are_two_windows() -> None:
    steps = _steps(5, valid=(1.0, 0.0), diversity=(1.0, 0.0))
    assert guard_of(steps, CONFIG) is None
