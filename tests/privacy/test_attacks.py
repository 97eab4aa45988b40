"""Attacks have the values that their definitions give; what cannot be measured is refused."""

from __future__ import annotations

import zlib

import numpy as np
import pytest

from refine_dagster.privacy.attacks import (
    ATTACKS,
    MembershipError,
    TokenLikelihoods,
    attack_result,
    attack_results,
    attack_scores,
    bag_of_words_scores,
    tpr_at,
)
from refine_dagster.statistics import auc

TEXT = "blue blue sky"
RESPONSE = TokenLikelihoods(
    TEXT,
    logs=(-1.0, -4.0, -0.5, -2.5, -2.0),
    means=(-2.0, -3.0, -1.0, -2.0, -2.0),
    deviations=(0.5, 2.0, 0.25, 1.0, 4.0),
    base_logs=(-2.0, -4.0, -1.5, -3.0, -2.0),
)


def test_scores_by_hand() -> None:
    scores = attack_scores(RESPONSE, share=0.4)
    assert tuple(scores) == ATTACKS
    assert scores["loss"] == pytest.approx(-2.0)
    assert scores["calibrated"] == pytest.approx(-2.0 + 2.5)
    assert scores["zlib"] == pytest.approx(-10.0 / len(zlib.compress(TEXT.encode())))
    # The two lowest of five: -4 and -2.5.
    assert scores["min_k"] == pytest.approx(-3.25)
    # (l - mu)/sigma: 2, -0.5, 2, -0.5, 0; the two lowest are both -0.5.
    assert scores["min_k_plus_plus"] == pytest.approx(-0.5)


def test_a_short_response_has_one_lowest_token() -> None:
    assert attack_scores(RESPONSE, share=0.01)["min_k"] == -4.0


def test_a_response_has_one_number_a_token() -> None:
    with pytest.raises(ValueError, match="one number a token"):
        TokenLikelihoods("x", (-1.0,), (-1.0,), (), (-1.0,))


def test_true_positives_at_one_percent_need_a_hundred_others() -> None:
    others = np.arange(100.0)
    assert tpr_at(np.array([98.0, 99.0, 98.5, 5.0]), others, 0.01) == pytest.approx(0.5)
    assert tpr_at(np.array([200.0]), np.arange(250.0), 0.01) == 0.0
    assert tpr_at(np.array([248.0]), np.arange(250.0), 0.01) == 1.0
    with pytest.raises(MembershipError, match="needs 100 non-members, there are 99"):
        tpr_at(np.array([1.0]), others[:99], 0.01)


def response(rng: np.random.Generator, shift: float) -> TokenLikelihoods:
    tokens = 12
    base = rng.normal(-3, 1, tokens)
    logs = base + shift
    return TokenLikelihoods(
        "word " * tokens, tuple(logs), (-3.0,) * tokens, (1.0,) * tokens, tuple(base)
    )


def test_a_model_that_has_learnt_by_heart_is_found_out_and_another_is_not() -> None:
    rng = np.random.default_rng(1)
    members = [response(rng, 2.0) for _ in range(120)]
    others = [response(rng, 0.0) for _ in range(120)]
    found = {row.attack: row for row in attack_results(members, others, samples=200, run_seed="s")}
    for row in found.values():
        assert row.auc > 0.95
        assert row.auc_low <= row.auc <= row.auc_high
        assert row.tpr_at_low_fpr is not None
        assert row.advantage == pytest.approx(row.auc - 0.5)
    unknown = [response(rng, 0.0) for _ in range(120)]
    for row in attack_results(unknown, others, samples=200, run_seed="s"):
        if row.attack != "calibrated":
            assert row.auc_low < 0.5 < row.auc_high
    few = attack_results(members[:20], others[:20], samples=100, run_seed="s")
    assert all(row.tpr_at_low_fpr is None for row in few)


def test_intervals_are_named_by_their_salt() -> None:
    scores = [0.1, 0.4, 0.3, 0.9], [0.2, 0.1, 0.5, 0.0]
    one, same, other = (
        attack_result("loss", *scores, samples=300, run_seed=run_seed)
        for run_seed in ("a", "a", "b")
    )
    assert one == same
    assert one.auc == other.auc == pytest.approx(12 / 16 - 0.5 / 16)
    with pytest.raises(MembershipError, match="0 members"):
        attack_result("loss", [], [1.0], samples=10, run_seed="a")


def texts_of(seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    words = np.array(["cat", "dog", "sun", "rain", "ship", "bread", "drum", "rose", "ball", "lamp"])
    return [" ".join(rng.choice(words, 6)) for _ in range(200)]


def test_words_alone_tell_what_differs_in_words_and_nothing_else() -> None:
    plain = texts_of(0)
    ours, theirs = bag_of_words_scores(
        [f"{text} castle" for text in plain[:100]], plain[100:], run_seed="s"
    )
    assert attack_result("bag_of_words", ours, theirs, samples=100, run_seed="s").auc > 0.95
    # Of equal texts the control says nothing: neither above nor, by the folds' doing, below chance.
    found = []
    for seed in range(12):
        plain = texts_of(seed)
        ours, theirs = bag_of_words_scores(plain[:100], plain[100:], run_seed="s")
        found.append(auc(np.array(ours), np.array(theirs)))
    assert abs(float(np.mean(found)) - 0.5) < 0.05
