"""Each rule eliminates what it is for, and a good rewrite passes all of them."""

from __future__ import annotations

import pytest

from refine_dagster.self_instruct.heuristics import answer_rejection
from refine_dagster.teams_rl.elimination import Rewrite, first_rejection, overlap, sameness
from refine_dagster.teams_rl.operations import NAMES, operation_named

PARENT = "Describe a boat in one sentence."
BREADTH = operation_named("breadth")


@pytest.mark.parametrize(
    ("text", "finished", "rule"),
    [
        ("Write a riddle about the se", False, "unfinished"),
        (" ?! ", True, "empty"),
        ("Instruction: Write a riddle about a lake.", True, "marker_words"),
        ("Write a new, rarer instruction on the same subject.", True, "marker_words"),
        ("The rewritten prompt asks for a riddle.", True, "marker_words"),
        ("Sorry, I can not do that.", True, "refusal"),
        ("I cannot rewrite this.", True, "refusal"),
        ("Riddle please.", True, "too_short"),
        ("word " * 61, True, "too_long"),
        ("describe a boat, in one sentence!", True, "identical"),
        ("Write a riddle whose answer is a lighthouse.", True, None),
        ("Describe a sorry-looking boat in one sentence.", True, None),
    ],
)
def test_rules_of_rewrites(text: str, finished: bool, rule: str | None) -> None:
    rejection = first_rejection(Rewrite(PARENT, text, BREADTH, finished), max_words=60)
    assert (rejection.rule if rejection else None) == rule


def test_a_marker_that_the_parent_has_is_no_leak() -> None:
    parent = "Explain what a new prompt is."
    rewrite = Rewrite(parent, "Explain in ten words what a new prompt is.", BREADTH)
    assert first_rejection(rewrite, 60) is None


def test_an_evolution_in_depth_keeps_something_of_its_parent() -> None:
    other = "Write a riddle whose answer is a lighthouse."
    deeper = operation_named("deepening")
    rejection = first_rejection(Rewrite(PARENT, other, deeper), 60)
    assert rejection is not None
    assert (rejection.rule, rejection.value, rejection.threshold) == ("lost_parent", 0.0, 0.3)
    assert first_rejection(Rewrite(PARENT, "Describe a boat and its crew.", deeper), 60) is None
    # A parent of stop words alone has nothing to lose.
    assert first_rejection(Rewrite("What is this?", other, deeper), 60) is None


def test_no_demonstration_breaks_a_rule() -> None:
    for operation in map(operation_named, NAMES):
        for before, after in operation.demonstrations:
            assert first_rejection(Rewrite(before, after, operation), 60) is None


@pytest.mark.parametrize(
    ("answer", "finished", "rule"),
    [
        ("A boat floats on the lake.", True, None),
        ("the of and, it.", True, "hollow_answer"),
        ("", True, "hollow_answer"),
        ("...", True, "hollow_answer"),
        ("No.", True, None),
        ("I am sorry, but as a poor machine I do not know.", True, "refused_answer"),
        ("Sorry is a word. " * 30, True, None),
        ("A boat flo", False, "unfinished_answer"),
    ],
)
def test_rules_of_answers(answer: str, finished: bool, rule: str | None) -> None:
    rejection = answer_rejection(answer, finished)
    assert (rejection.rule if rejection else None) == rule


def test_overlap_is_shared_over_all_words_without_stop_words() -> None:
    assert overlap("Describe a boat", "Describe the boat") == 1.0
    assert overlap("Describe a boat", "Paint a boat") == pytest.approx(1 / 3)
    assert overlap("Describe a boat", "Name three fruits") == 0.0
    assert overlap("the", "a") == 1.0


def test_wording_decides_only_what_is_clear() -> None:
    def said(text: str) -> str:
        return sameness(Rewrite(PARENT, text, BREADTH), 0.3)

    assert said("DESCRIBE a boat in one sentence") == "equal"
    assert said("Invent a holiday for snowflakes.") == "different"
    assert said("Describe a boat in two sentences.") == "undecided"
