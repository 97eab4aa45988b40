"""The published rule gives the numbers that its coefficients say, raw and whitened."""

from __future__ import annotations

from statistics import fmean

import pytest

from refine_dagster.judge.judge import Scores
from refine_dagster.refine_af.reward import PRESETS, fit_whitening
from tests.builders.fake_judge import scores_of

RULE = PRESETS["refine_af"]


@pytest.mark.parametrize(
    ("scores", "reward"),
    [
        (scores_of(0, 0, 0, 0), -0.0274),
        (scores_of(1, 0, 0, 0), 0.2938),
        (scores_of(0, 1, 0, 0), 0.1246),
        (scores_of(0, 0, 1, 0), -0.4695),
        (scores_of(0, 0, 0, 10), 0.0506),
        (scores_of(0.5, 0.25, 0.8, -2.0), -0.19808),
    ],
)
def test_known_rewards(scores: Scores, reward: float) -> None:
    assert RULE.reward(scores) == pytest.approx(reward, abs=1e-12)


def _whitened(given: list[Scores], scores: Scores) -> Scores:
    moments = fit_whitening(given)
    return {part: moments[part].standardised(value) for part, value in scores.items()}


def test_whitening_known_answer() -> None:
    # Naturalness has mean 0.5 and deviation 0.3, the reward mean 1 and deviation 3.
    given = [scores_of(0.2, 0.4, 0.6, -2.0), scores_of(0.8, 0.4, 0.6, 4.0)]
    white = _whitened(given, given[1])
    assert white["naturalness"] == pytest.approx(1.0)
    assert white["reward_model"] == pytest.approx(1.0)
    assert RULE.whitened(given).reward(given[1]) == pytest.approx(0.0078 + 0.3212 - 0.0274)


def test_a_part_that_does_not_vary_is_only_centred() -> None:
    given = [scores_of(0.3, 0.1, 0.7, 1.0), scores_of(0.3, 0.9, 0.7, 1.0)]
    white = _whitened(given, scores_of(0.5, 0.5, 0.7, 1.0))
    assert white["naturalness"] == pytest.approx(0.2)
    assert white["understandability"] == pytest.approx(0.0)


def test_whitened_rewards_have_the_constant_as_their_mean() -> None:
    given = [scores_of(0.1 * n, 0.9 - 0.05 * n, 0.5 + 0.01 * n * n, n - 3.0) for n in range(7)]
    rule = RULE.whitened(given)
    assert fmean(rule.reward(one) for one in given) == pytest.approx(RULE.constant, abs=1e-12)
    assert RULE.whitening is None


def test_whitening_on_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no scores"):
        fit_whitening([])
