"""Rewards have the values of their formulas, and the archive rolls, forgets and is taken back."""

from __future__ import annotations

import pytest

from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.teams_rl.chain import Chain, Execution, Outcome, Review
from refine_dagster.teams_rl.reward import NoveltyReward, PaperReward

EMBEDDING = HashedEmbedding(128)


def outcome(
    text: str,
    *,
    parent: str = "Describe a boat.",
    seed: str = "s",
    episode: int = 0,
    kept: bool = True,
) -> Outcome:
    return Outcome(
        Chain(seed, episode, parent),
        "breadth",
        text,
        None if kept else "identical",
        Execution(text),
        Review(True),
    )


def cosine(first: str, second: str) -> float:
    one, two = EMBEDDING.embed([first, second])
    return float(one @ two)


def test_paper_pays_one_for_what_is_kept() -> None:
    reward = PaperReward()
    assert reward.pay([outcome("a b c"), outcome("a b c", kept=False)]) == [1.0, 0.0]


def test_novelty_is_the_distance_from_parent_and_archive_less_cost() -> None:
    reward = NoveltyReward(EMBEDDING, cost=0.25)
    first, second = "Sort the words.", "Sort the numbers."
    paid = reward.pay([outcome(first), outcome(second, seed="t"), outcome("x", kept=False)])
    assert paid[0] == pytest.approx(1 - max(0.0, cosine(first, "Describe a boat.")) - 0.25)
    assert paid[1] == pytest.approx(1 - cosine(first, second) - 0.25)
    assert paid[2] == -0.25


def test_a_text_pays_nothing_twice_until_the_archive_has_rolled_on() -> None:
    reward = NoveltyReward(EMBEDDING, capacity=2)
    text = "Sort the words."
    first, again = reward.pay([outcome(text, seed="a"), outcome(text, seed="b")])
    assert first > 0.5
    assert again == pytest.approx(0.0, abs=1e-6)
    reward.pay([outcome("Name two birds.", seed="c"), outcome("Add 4 and 5.", seed="d")])
    assert reward.pay([outcome(text, seed="e")])[0] > 0.5


def test_earlier_episodes_of_the_same_seed_are_not_compared() -> None:
    reward = NoveltyReward(EMBEDDING)
    text = "Sort the words."
    first, later, same = reward.pay(
        [outcome(text), outcome(text, episode=5), outcome(text, episode=5)]
    )
    assert first == pytest.approx(later)
    assert same == pytest.approx(0.0, abs=1e-6)


def test_a_restored_archive_pays_what_the_first_would() -> None:
    first = NoveltyReward(EMBEDDING, capacity=4)
    first.pay([outcome(f"Write {n} words about bird {n}.", seed=f"s{n % 3}") for n in range(9)])
    second = NoveltyReward(EMBEDDING, capacity=4)
    second.restore(first.state())
    asked = [outcome("Write 8 words about bird 7.", seed="s1", episode=n) for n in range(3)]
    assert first.pay(asked) == second.pay(asked)
    first.clear()
    assert first.state() == []
