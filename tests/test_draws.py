"""Draws and splits do not depend on order, and an edit of one member moves hardly another."""

from __future__ import annotations

import random

import pytest

from refine_dagster.draws import SplitError, draw, draw_different, held_out_split

IDS = [f"id{n}" for n in range(400)]
NAMES = [f"seed_{number}" for number in range(100)]


def all_draws(names: list[str], k: int = 6) -> list[list[str]]:
    return [draw(names, k, "salt", "human", 0, request) for request in range(400)]


def test_order_of_members_does_not_matter() -> None:
    shuffled = NAMES[:]
    random.Random(1).shuffle(shuffled)
    assert all_draws(NAMES) == all_draws(shuffled)


def test_every_slot_has_its_own_draw_of_distinct_members() -> None:
    drawn = all_draws(NAMES)
    assert all(len(set(one)) == 6 for one in drawn)
    assert len({tuple(one) for one in drawn}) == 400
    assert draw(NAMES[:3], 6, "slot") == draw(NAMES[:3], 3, "slot")


def test_removing_one_of_n_changes_about_k_of_n_slots() -> None:
    before, after = all_draws(NAMES), all_draws(NAMES[1:])
    changed = sum(one != other for one, other in zip(before, after, strict=True))
    assert changed == sum(NAMES[0] in one for one in before)
    assert 0.02 < changed / 400 < 0.12  # 6 of 100
    for one, other in zip(before, after, strict=True):
        assert [name for name in one if name != NAMES[0]] == [n for n in other if n in one]


def test_adding_one_changes_only_the_slots_that_show_it() -> None:
    before, after = all_draws(NAMES), all_draws([*NAMES, "new"])
    for one, other in zip(before, after, strict=True):
        assert ("new" in other) == (one != other)


def test_members_are_shown_evenly() -> None:
    counts = dict.fromkeys(NAMES, 0)
    for one in all_draws(NAMES):
        for name in one:
            counts[name] += 1
    assert min(counts.values()) > 5  # 24 expected
    assert max(counts.values()) < 50


def test_split_is_a_partition_of_about_the_share() -> None:
    train, held_out = held_out_split(IDS, 0.25, "salt")
    assert sorted(train + held_out) == sorted(IDS)
    assert not set(train) & set(held_out)
    assert 70 <= len(held_out) <= 130


def test_split_does_not_depend_on_order_or_repetition() -> None:
    shuffled = random.Random(1).sample(IDS, len(IDS)) + IDS[:7]
    assert held_out_split(shuffled, 0.25, "salt") == held_out_split(IDS, 0.25, "salt")


def test_split_moves_nobody_across_when_one_is_removed() -> None:
    before = set(held_out_split(IDS, 0.25, "salt")[1])
    after = set(held_out_split(IDS[1:], 0.25, "salt")[1])
    assert before - {IDS[0]} == after


def test_split_depends_on_the_run_seed() -> None:
    assert held_out_split(IDS, 0.25, "salt") != held_out_split(IDS, 0.25, "other")


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_neither_side_is_empty(share: float) -> None:
    train, held_out = held_out_split(["a", "b", "c"], share, "salt")
    assert train
    assert held_out


def test_one_instruction_cannot_be_split() -> None:
    with pytest.raises(SplitError, match="1 instructions cannot be split"):
        held_out_split(["a", "a"], 0.25, "salt")


def test_a_text_is_drawn_once() -> None:
    texts = {f"s{number}": f"text {number % 3}" for number in range(12)}
    for slot in range(20):
        drawn = draw_different(texts, 5, "run", slot)
        assert sorted(texts[name] for name in drawn) == ["text 0", "text 1", "text 2"]
        heaviest = draw(texts, 12, "run", slot)
        assert drawn == [
            name
            for at, name in enumerate(heaviest)
            if texts[name] not in {texts[before] for before in heaviest[:at]}
        ]
    different = {name: name for name in texts}
    assert draw_different(different, 4, "run", 1) == draw(texts, 4, "run", 1)
