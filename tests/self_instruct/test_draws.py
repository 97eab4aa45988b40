"""Rendezvous draws: order-free, and an edit of one member changes about k/n of the slots."""

from __future__ import annotations

import random

from refine_dagster.draws import draw

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
