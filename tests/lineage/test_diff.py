"""`diff` counts what differs between any two states, and groups it by cause."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.lineage.diff import StateDifference, difference
from refine_dagster.warehouse.schema import WarehouseError
from tests.builders.edit_story import FIRST, Story

Counts = tuple[int, int, int, int]


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A first run (1 to 4); s1 edited and s3 removed (5), candidates (6), accepted ones (7)."""
    story = Story(tmp_path_factory.mktemp("story")).told()
    story.seed_tasks(s1="Name a big fruit.", s2="Count the words.")
    story.raw_instructions(
        {
            "0/a": ("Name a dark colour.", ["s1", "s2"], []),
            "0/b": ("Name a fish.", ["s2"], []),
            "1/d": FIRST["1/d"],
            "2/e": ("Name a song.", ["s2"], []),
        }
    )
    story.filtered_instructions("0/a", "0/b", "2/e")
    return story


def groups(told: StateDifference, table: str) -> dict[str, Counts]:
    return {
        told.label(one.reasons): (one.added, one.removed, one.changed, one.lineage_only)
        for one in told.groups
        if one.table == table
    }


def test_rows_are_counted_by_cause(story: Story) -> None:
    told = difference(story.warehouse, 4, 7)
    assert groups(told, "seed_tasks") == {
        "seed s1 edited": (0, 0, 1, 0),
        "seed s3 removed": (0, 1, 0, 0),
    }
    assert groups(told, "raw_instructions") == {
        "seed s1 edited": (0, 0, 2, 1),
        "seed s3 removed": (0, 1, 1, 0),
        "seed s1 edited, seed s3 removed, indirectly": (1, 0, 0, 0),
    }
    # 1/d was decided on anew: no parent of the accepted ones says so but their candidate.
    assert groups(told, "filtered_instructions") == {
        "seed s1 edited": (0, 1, 1, 0),
        "seed s3 removed": (0, 0, 1, 0),
        "seed s1 edited, seed s3 removed, indirectly": (1, 0, 0, 0),
    }
    assert not groups(told, "base_model")


def test_the_other_way_round_everything_is_exchanged(story: Story) -> None:
    told = difference(story.warehouse, 7, 4)
    assert groups(told, "raw_instructions") == {
        "seed s1 edited": (0, 0, 2, 1),
        "seed s3 added": (1, 0, 1, 0),
        "seed s1 edited, seed s3 added, indirectly": (0, 1, 0, 0),
    }
    (edited,) = [one for one in told.causes.values() if one.change == "edited"]
    assert edited.new == {"instruction": "Name a fruit."}


def test_counts_agree_with_the_states_read_as_of(story: Story) -> None:
    told = difference(story.warehouse, 2, 6)
    for table in ("seed_tasks", "raw_instructions", "filtered_instructions"):
        old = set(story.warehouse.read(table, as_of=2)["row_id"])
        new = set(story.warehouse.read(table, as_of=6)["row_id"])
        counts = groups(told, table).values()
        assert sum(one[0] + one[2] for one in counts) == len(new - old)
        assert sum(one[1] + one[2] for one in counts) == len(old - new)


def test_a_state_in_the_middle_of_a_run_has_the_same_causes(story: Story) -> None:
    """The seeds changed before the first state, but the candidates had not read them yet."""
    whole, part = difference(story.warehouse, 4, 7), difference(story.warehouse, 5, 6)
    assert groups(part, "raw_instructions") == groups(whole, "raw_instructions")
    assert not groups(part, "seed_tasks")
    assert not groups(part, "filtered_instructions")


def test_what_was_not_there_before_is_made_from_nothing(story: Story) -> None:
    told = difference(story.warehouse, 2, 4)
    assert groups(told, "raw_instructions") == {"raw_instructions made from nothing": (4, 0, 0, 0)}
    back = difference(story.warehouse, 4, 0)
    assert groups(back, "seed_tasks") == {"seed_tasks not made yet": (0, 3, 0, 0)}


def test_nothing_differs_from_itself(story: Story) -> None:
    assert difference(story.warehouse, 6, 6).groups == ()


def test_rows_are_listed_with_the_columns_that_differ(story: Story) -> None:
    told = difference(story.warehouse, 4, 7, table="raw_instructions", limit=3)
    assert told.rows is not None
    assert (len(told.rows), told.rows_total) == (3, 5)
    first, second, third = told.rows
    assert first.key == "self_instruct 0/a"
    assert (first.old, first.new) == (
        {"instruction": "Name a colour."},
        {"instruction": "Name a dark colour."},
    )
    assert told.label(second.reasons) == "seed s3 removed"
    assert (third.new_id, third.new) == (None, {})
    assert third.old["instruction"] == "Name a tree."
    everything = difference(story.warehouse, 4, 7, table="raw_instructions", limit=99).rows or ()
    (same,) = [one for one in everything if one.key == "self_instruct 1/d"]
    assert (same.old, same.new) == ({}, {})


def test_a_change_that_was_taken_back_is_none(story: Story, tmp_path: Path) -> None:
    story = story.copy(tmp_path)
    story.seed_tasks(s1="Name a fruit.", s2="Count the words.", s3="Reverse the list.")
    story.raw_instructions(FIRST)
    story.filtered_instructions("0/a", "0/b", "1/d")
    assert difference(story.warehouse, 4, 10).groups == ()
    assert difference(story.warehouse, 7, 10).groups != ()


def test_config_and_models_are_causes(story: Story, tmp_path: Path) -> None:
    story = story.copy(tmp_path)
    story.base_model("b")
    story.raw_instructions({"0/a": ("Name a dark colour.", ["s1", "s2"], [])}, target=9)
    told = difference(story.warehouse, 7, 9)
    (label,) = groups(told, "base_model")
    assert label == "config base_model.id: a → b"
    assert groups(told, "raw_instructions") == {
        "config base_model.id: a → b, through base_model": (0, 3, 1, 0)
    }


def test_numbers_out_of_range_and_unknown_tables_are_refused(story: Story) -> None:
    with pytest.raises(WarehouseError, match="there is no materialization 8"):
        difference(story.warehouse, 4, 8)
    with pytest.raises(WarehouseError, match="no materialization -1"):
        difference(story.warehouse, -1, 4)
    with pytest.raises(WarehouseError, match="has no history"):
        difference(story.warehouse, 1, 4, table="yield_funnel")
