"""`why` names what changed, how far it reached, and what it replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.lineage.causes import MANY
from refine_dagster.lineage.prune import apply
from refine_dagster.lineage.trace import RowError
from refine_dagster.lineage.why import AssetExplanation, ExplainError, RowExplanation, explain
from refine_dagster.warehouse.tables import REFERENCES, TABLES
from tests.builders.edit_story import FIRST, Story

SEEDS = {"s1": "Name a fruit.", "s2": "Count the words.", "s3": "Reverse the list."}


@pytest.fixture(scope="module")
def beginning(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return Story(tmp_path_factory.mktemp("story")).told()


@pytest.fixture
def story(beginning: Story, tmp_path: Path) -> Story:
    return beginning.copy(tmp_path)


def why_asset(story: Story, asset: str) -> AssetExplanation:
    told = explain(story.warehouse, asset)
    assert isinstance(told, AssetExplanation)
    return told


def why_row(story: Story, row_id: str) -> RowExplanation:
    told = explain(story.warehouse, row_id)
    assert isinstance(told, RowExplanation)
    return told


def reasons(told: AssetExplanation) -> dict[str, int]:
    return {one.reason.label: one.rows for one in told.reasons}


def edit_s1(story: Story) -> None:
    """Sequences 5 to 7: s1 is edited, and what showed it is made anew."""
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit."})
    dark = {**FIRST, "0/a": ("Name a dark colour.", ["s1", "s2"], [])}
    story.raw_instructions(dark, sent=["0/a"])
    story.filtered_instructions("0/a", "0/b", "1/d")


def test_every_table_has_a_natural_key_of_its_columns() -> None:
    for table in TABLES.values():
        assert set(table.key) <= set(table.stored)
        if table.owner is not None:
            assert table.owner[0] in REFERENCES & table.columns.keys()
            assert table.owner[1] in TABLES
    of_one_row = {name for name, table in TABLES.items() if not table.key and not table.owner}
    assert of_one_row == {"base_model", "feedback_judge", "instructor_policy", "policy_start"}


def test_a_first_materialization_is_made_from_nothing(story: Story) -> None:
    told = why_asset(story, "raw_instructions")
    assert told.change.is_first
    assert told.since is None
    assert reasons(told) == {"raw_instructions made from nothing": 4}
    row = why_row(story, story.ids("filtered_instructions")["0/b"])
    assert row.added.change.is_first
    assert (row.added.other_id, row.removed) == (None, None)


def test_an_edited_seed_is_named_with_old_and_new_text(story: Story) -> None:
    edit_s1(story)
    told = why_asset(story, "raw_instructions")
    assert (told.made.sequence, told.change.before) == (6, 3)
    assert [one.name for one in told.change.inputs] == ["seed_tasks"]
    assert (told.change.config, told.change.code, told.change.files) == ((), None, ())
    (count,) = told.tables
    assert (count.total, count.added, count.removed, count.reused) == (4, 2, 2, 2)
    (request,) = told.requests
    assert (request.role, request.asked, request.reused, request.sent) == ("propose", 4, 3, 1)
    assert reasons(told) == {"seed s1 edited": 2}
    cause = told.reasons[0].reason.cause
    assert cause.old == {"instruction": "Name a fruit."}
    assert cause.new == {"instruction": "Name a big fruit."}
    assert cause.new_id == story.ids("seed_tasks")["s1"]


def test_a_change_reaches_later_rounds_through_accepted_instructions(story: Story) -> None:
    before = story.ids("raw_instructions")
    edit_s1(story)
    row = why_row(story, story.ids("raw_instructions")["1/d"][:12])
    assert row.key == "self_instruct 1/d"
    assert row.added.other_id == before["1/d"]
    assert (row.added.old, row.added.new) == ({}, {})
    assert [one.label for one in row.added.reasons] == ["seed s1 edited"]
    assert row.completion is not None
    assert row.completion.sent is False
    first = why_row(story, story.ids("raw_instructions")["0/a"])
    assert first.added.new == {"instruction": "Name a dark colour."}
    assert first.completion is not None
    assert first.completion.sent is True


def test_a_kept_row_says_how_often_it_was_kept(story: Story) -> None:
    edit_s1(story)
    row = why_row(story, story.ids("raw_instructions")["0/c"])
    assert (row.added.by.sequence, row.kept, row.removed) == (3, 1, None)


def test_a_later_change_does_not_take_older_rows_of_the_loop_for_new(story: Story) -> None:
    """`1/d` shows an accepted instruction committed after the candidates that it belongs to."""
    edit_s1(story)
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit.", "s2": "Count all words."})
    changed = {"0/a": ("Name a dark colour.", ["s1"], []), "1/d": ("Red?", ["s2"], ["0/a"])}
    story.raw_instructions({**FIRST, **changed})
    row = why_row(story, story.ids("raw_instructions")["1/d"])
    assert {one.label for one in row.added.reasons} == {"seed s2 edited"}


def test_a_removed_seed_explains_what_replaced_its_rows(story: Story) -> None:
    before = story.ids("raw_instructions")
    story.seed_tasks(s1=SEEDS["s1"], s2=SEEDS["s2"])
    kept = {slot: one for slot, one in FIRST.items() if "s3" not in one[1]}
    story.raw_instructions({**kept, "0/b": ("Name a fish.", ["s2", "s1"], [])})
    told = why_asset(story, "raw_instructions")
    assert reasons(told) == {"seed s3 removed": 2}
    assert told.reasons[0].reason.cause.old["instruction"] == "Reverse the list."
    replaced = why_row(story, before["0/b"])
    assert replaced.removed is not None
    assert replaced.removed.by.sequence == 6
    assert replaced.removed.other_id == story.ids("raw_instructions")["0/b"]
    assert [one.label for one in replaced.removed.reasons] == ["seed s3 removed"]
    gone = why_row(story, before["0/c"])
    assert gone.removed is not None
    assert gone.removed.other_id is None
    seed = why_row(story, told.reasons[0].reason.cause.old_id or "")
    assert seed.removed is not None
    assert seed.removed.reasons[0].cause.change == "removed"


def test_an_added_seed_is_named(story: Story) -> None:
    story.seed_tasks(**SEEDS, s4="Draw.")
    story.raw_instructions({**FIRST, "0/c": ("Name a tree.", ["s4"], [])})
    assert reasons(why_asset(story, "raw_instructions")) == {"seed s4 added": 1}


def test_rows_without_new_ancestors_are_explained_by_config_or_code(story: Story) -> None:
    story.raw_instructions({**FIRST, "2/e": ("Name a song.", ["s1"], [])}, target=4)
    told = why_asset(story, "raw_instructions")
    assert [(one.name, one.old, one.new) for one in told.change.config] == [
        ("self_instruct.target", 3, 4)
    ]
    assert reasons(told) == {"config self_instruct.target: 3 → 4": 1}
    more = {**FIRST, "2/e": ("Name a tune.", ["s1"], [])}
    story.raw_instructions(more, target=4, revision=2)
    told = why_asset(story, "raw_instructions")
    assert reasons(told) == {"code of raw_instructions: revision 1 → 2": 1}


def test_a_run_seed_compares_with_its_former_name(story: Story) -> None:
    story.raw_instructions(FIRST, run_seed=("salt", "y"))
    since = why_asset(story, "raw_instructions").since
    assert since is not None
    assert [(one.name, one.old, one.new) for one in since.config] == [("run_seed", "x", "y")]
    more = {**FIRST, "2/e": ("Name a song.", ["s1"], [])}
    story.raw_instructions(more, target=4, run_seed=("run_seed", "y"))
    told = why_asset(story, "raw_instructions")
    assert reasons(told) == {"config self_instruct.target: 3 → 4": 1}


def test_rows_that_the_inputs_decide_as_a_whole_are_indirect(story: Story) -> None:
    """An edited seed ends the loop later: a candidate is added that never showed it."""
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit."})
    story.raw_instructions({**FIRST, "2/e": ("Name a song.", ["s2"], [])})
    story.filtered_instructions("0/a", "0/b", "1/d", "2/e")
    row = why_row(story, story.ids("raw_instructions")["2/e"])
    assert [one.label for one in row.added.reasons] == ["seed s1 edited, indirectly"]
    assert reasons(why_asset(story, "raw_instructions")) == {
        "seed s1 edited": 2,
        "seed s1 edited, indirectly": 1,
    }


def test_another_model_is_named_by_its_config_or_as_itself(story: Story) -> None:
    story.base_model("b")
    story.raw_instructions(FIRST)
    assert reasons(why_asset(story, "raw_instructions")) == {
        "config base_model.id: a → b, through base_model": 4
    }
    story.base_model("b", "other weights")
    story.raw_instructions(FIRST)
    told = why_asset(story, "raw_instructions")
    assert reasons(told) == {"base_model edited, through base_model": 4}
    assert told.reasons[0].reason.cause.old.keys() == {"fingerprint"}


def test_a_seed_that_only_the_model_learnt_is_told_from_one_that_was_shown(story: Story) -> None:
    story.base_model("offline", steps=1)
    story.raw_instructions(FIRST)
    story.filtered_instructions("0/a", "0/b", "1/d")
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit."})
    story.base_model("offline", steps=1)
    story.raw_instructions(FIRST)
    story.filtered_instructions("0/a", "0/b", "1/d")
    assert reasons(why_asset(story, "raw_instructions")) == {
        "seed s1 edited": 2,
        "seed s1 edited, through base_model": 2,
    }
    story.base_model("offline", steps=2)
    steps = "config base_model.steps: 1 → 2"
    assert reasons(why_asset(story, "base_model")) == {steps: 1}


def test_a_seed_and_a_field_changed_together_both_explain_the_model(story: Story) -> None:
    story.base_model("offline", steps=1)
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit."})
    story.base_model("offline", steps=2)
    labels = {"seed s1 edited", "config base_model.steps: 1 → 2"}
    assert reasons(why_asset(story, "base_model")).keys() == labels


def test_an_unchanged_materialization_leads_to_the_last_change(story: Story) -> None:
    edit_s1(story)
    story.raw_instructions({**FIRST, "0/a": ("Name a dark colour.", ["s1", "s2"], [])}, x=1)
    told = why_asset(story, "raw_instructions")
    assert (told.last.sequence, told.made.sequence) == (8, 6)
    assert told.since is not None
    assert [one.name for one in told.since.config] == ["self_instruct.x"]
    assert reasons(told) == {"seed s1 edited": 2}


def test_inputs_read_before_others_were_made_anew_are_compared_as_read(story: Story) -> None:
    """The model was not made anew with the seeds; when it is, the older edit is its reason."""
    story.base_model("offline", steps=1)
    story.raw_instructions(FIRST)
    story.filtered_instructions("0/a", "0/b", "1/d")
    edit_s1(story)
    story.base_model("offline", steps=1)
    dark = {**FIRST, "0/a": ("Name a dark colour.", ["s1", "s2"], [])}
    story.raw_instructions(dark)
    assert reasons(why_asset(story, "raw_instructions")) == {
        "seed s1 edited, through base_model": 4
    }


def test_very_many_changed_seeds_are_one_cause(story: Story) -> None:
    story.seed_tasks(**SEEDS, **{f"t{number}": "Do." for number in range(MANY + 1)})
    assert reasons(why_asset(story, "seed_tasks")) == {f"{MANY + 1} seeds added": MANY + 1}


def test_a_row_that_came_back_tells_its_earlier_life(story: Story) -> None:
    row_id = story.ids("seed_tasks")["s1"]
    story.seed_tasks(**{**SEEDS, "s1": "Name a big fruit."})
    story.seed_tasks(**SEEDS)
    row = why_row(story, row_id)
    assert (row.added.by.sequence, row.removed, row.earlier) == (6, None, ((1, 5),))


def test_what_cannot_be_explained_is_refused(story: Story) -> None:
    with pytest.raises(ExplainError, match="no asset and no row id"):
        explain(story.warehouse, "nonsense")
    with pytest.raises(ExplainError, match="no asset and no row id"):
        explain(story.warehouse, "abcde")
    with pytest.raises(RowError, match="no row, live or removed"):
        explain(story.warehouse, "0" * 32)
    with pytest.raises(ExplainError, match="never materialised"):
        explain(story.warehouse, "evaluation_predictions")


def test_after_a_prune_what_is_left_is_explained_and_said_to_be_so(
    story: Story, tmp_path: Path
) -> None:
    edit_s1(story)
    apply(story.warehouse, tmp_path / "checkpoints")
    told = why_asset(story, "raw_instructions")
    assert told.pruned
    assert reasons(told) == {"seed s1 added": 2}
    with pytest.raises(ExplainError, match="no asset"):
        explain(story.warehouse, "prune")
