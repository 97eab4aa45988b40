"""Sides are drawn from run seed and instruction alone: other examples do not move one."""

from __future__ import annotations

import random

from refine_dagster.privacy.audit import LEAST_A_SIDE, AuditExample, is_member, split_examples
from refine_dagster.prompts.example import Example


def examples(count: int) -> list[AuditExample]:
    return [
        AuditExample(f"row{number}", Example(f"Count to {number}.", "", str(number)))
        for number in range(count)
    ]


def ids(side: tuple[AuditExample, ...]) -> list[str]:
    return [one.row_id for one in side]


def test_every_example_is_on_one_side_about_half_on_each() -> None:
    split = split_examples(examples(400), 1000, "s")
    assert sorted(ids(split.members) + ids(split.others)) == sorted(ids(tuple(examples(400))))
    assert 160 < len(split.members) < 240
    assert split.refusal is None


def test_order_and_ids_do_not_count() -> None:
    mixed = examples(100)
    random.Random(1).shuffle(mixed)
    renamed = [AuditExample(f"other{one.row_id}", one.example) for one in mixed]
    first, second = (split_examples(these, 60, "s") for these in (examples(100), renamed))
    assert [one.example for one in first.members] == [one.example for one in second.members]
    assert [one.example for one in first.others] == [one.example for one in second.others]


def test_a_removed_or_added_example_moves_no_other() -> None:
    whole = split_examples(examples(100), 1000, "s")
    fewer = split_examples(examples(100)[:-10], 1000, "s")
    assert set(fewer.members) < set(whole.members)
    assert set(fewer.others) < set(whole.others)


def test_instances_of_one_instruction_stay_together() -> None:
    many = [AuditExample(str(n), Example("Say a number.", str(n), str(n))) for n in range(30)]
    split = split_examples(many, 100, "s")
    assert {len(split.members), len(split.others)} == {0, 30}
    assert bool(split.members) == is_member("Say a number.", "s")


def test_another_salt_draws_other_sides() -> None:
    first, second = (split_examples(examples(100), 1000, run_seed) for run_seed in "st")
    assert 20 < len(set(first.members) & set(second.members)) < 45


def test_the_most_are_half_a_side() -> None:
    split = split_examples(examples(400), 50, "s")
    assert (len(split.members), len(split.others)) == (25, 25)


def test_too_few_are_refused_with_their_number() -> None:
    split = split_examples(examples(20), 1000, "s")
    assert split.refusal == (
        f"{len(split.members)} members and {len(split.others)} non-members, "
        f"at least {LEAST_A_SIDE} of each are needed"
    )
