"""Figures add up, and the intervals contain what was measured."""

from __future__ import annotations

import pytest

from evolution_figures import gains, policy_figures, rouge_l_to
from refine_dagster.evaluation.diversity import HashedEmbedding, vendi_score
from refine_dagster.teams_rl.chain import Evolver, Outcome
from refine_dagster.teams_rl.evolution import evolve
from refine_dagster.teams_rl.policies import FixedPolicy, RandomPolicy
from template_executor import RuleReviewer, TemplateExecutor
from tests.builders.packaged_seeds import packaged_seeds

EMBEDDING = HashedEmbedding(64)


def evolved(operation: str | None, run_seed: str = "a") -> list[Outcome]:
    policy = FixedPolicy(operation) if operation else RandomPolicy(run_seed)
    evolver = Evolver(TemplateExecutor(run_seed), RuleReviewer())
    return evolve(packaged_seeds()[:30], policy, evolver)


def test_figures_are_those_of_the_rows() -> None:
    rows = evolved(None)
    kept = [row for row in rows if row.kept]
    figures = policy_figures(rows, EMBEDDING, training_calls=1000)
    assert figures.executor_calls == len(rows) == 180
    assert figures.calls == 180  # the rules review without a call
    assert figures.kept == len(kept)
    assert figures.valid_rate == pytest.approx(len(kept) / 180)
    assert figures.vendi == vendi_score(EMBEDDING.embed([row.text for row in kept]))
    likeness = sum(rouge_l_to(row.text, row.parent) for row in kept) / len(kept)
    assert figures.rouge_l_to_parent == pytest.approx(likeness)
    assert figures.calls_per_row == pytest.approx(180 / len(kept))
    assert figures.calls_per_row_with_training == pytest.approx(1180 / len(kept))
    assert sum(figures.shares) == pytest.approx(1.0)


def test_gains_of_a_policy_over_itself_are_nothing() -> None:
    rows = [evolved(None, run_seed) for run_seed in "ab"]
    gain = gains(rows, rows, EMBEDDING, samples=50, run_seed="s")
    assert gain.vendi == gain.valid_rate == 0.0
    assert gain.vendi_interval.low == gain.vendi_interval.high == 0.0


def test_gains_have_their_sign_and_an_interval_around_them() -> None:
    safe = [evolved("constraints", run_seed) for run_seed in "abc"]
    free = [evolved("breadth", run_seed) for run_seed in "abc"]
    gain = gains(safe, free, EMBEDDING, samples=100, run_seed="s")
    assert gain.vendi_interval.low < gain.vendi < gain.vendi_interval.high < 0
    assert 0 < gain.valid_rate_interval.low < gain.valid_rate < gain.valid_rate_interval.high
    assert gain == gains(safe, free, EMBEDDING, samples=100, run_seed="s")
    expected = [
        policy_figures(one, EMBEDDING).vendi - policy_figures(two, EMBEDDING).vendi
        for one, two in zip(safe, free, strict=True)
    ]
    assert gain.vendi == pytest.approx(sum(expected) / 3)
    with pytest.raises(ValueError, match="same seeds"):
        gains(safe, [rows[1:3] for rows in free], EMBEDDING, samples=5, run_seed="s")
