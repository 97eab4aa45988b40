"""Contamination: shared runs and near copies are found, with their span; other texts are not."""

from __future__ import annotations

from typing import Any

import pytest

from refine_dagster.evaluation.super_ni import Task, TaskInstance
from refine_dagster.screening.contamination import Contamination, texts_of
from refine_dagster.screening.finding import Finding, Words

DEFINITION = "In this task you are given a sentence and you must say how many words it has."
INPUT = "The old ferry crossed the river twice before the storm arrived from the north."
SHORT = "Where do penguins sleep at night?"
TASKS = [
    Task("count.json", DEFINITION, ("Counting",), (TaskInstance(INPUT, ("14",)),)),
    Task("ask.json", "Answer.", ("Answers",), (TaskInstance(SHORT, ("On the ice",)),)),
]


def row(row_id: str, instruction: str, given: str = "", output: str = "") -> dict[str, Any]:
    return {"row_id": row_id, "instruction": instruction, "input": given, "output": output}


def found(*rows: dict[str, Any], **options: Any) -> list[Finding]:
    return Contamination(texts_of(TASKS), **options).find(list(rows))


def test_a_shared_run_is_found_in_every_field_with_its_span() -> None:
    given = "Note: the old ferry crossed  the RIVER, twice before the storm. Then it sank "
    given += "slowly, and nobody on the bank saw it go down that day."
    [finding] = found(row("a", "Summarise it for me.", given))
    assert (finding.rule, finding.field, finding.value) == ("8-gram", "input", 10.0)
    assert finding.against == "count.json, input 0"
    assert finding.text == "the old ferry crossed  the RIVER, twice before the storm"
    assert given[finding.start : finding.end] == finding.text
    [other] = found(row("b", "Go on.", "", given))
    assert (other.row_id, other.field) == ("b", "output")


def test_seven_shared_words_are_no_finding_and_eight_are() -> None:
    words = INPUT.split()
    assert not found(row("a", f"Say {' '.join(words[:7])} and stop there, please, my good friend."))
    longer = f"Say {' '.join(words[:8])} and stop there, please, my friend, at once."
    [finding] = found(row("a", longer))
    assert finding.value == 8.0
    [shorter] = found(row("a", f"Say {' '.join(words[:6])} and stop now, my dear friend."), ngram=6)
    assert shorter.rule == "6-gram"


def test_a_short_text_counts_where_it_stands_whole() -> None:
    by_run = [one for one in found(row("a", f"Tell me: {SHORT}")) if one.rule != "ROUGE-L"]
    assert [(one.rule, one.text) for one in by_run] == [("6-gram", SHORT.rstrip("?"))]
    assert not found(row("a", "Where do the small penguins of the south sleep in summer?"))


def test_a_reworded_copy_is_found_by_rouge_l() -> None:
    reworded = "In this job you are given a line and you should say how many words it really has."
    [finding] = found(row("a", reworded))
    assert (finding.rule, finding.against) == ("ROUGE-L", "count.json, definition")
    assert finding.value is not None
    assert finding.value >= 0.7
    assert reworded.startswith(finding.text[:7])
    assert not found(row("a", reworded), threshold=0.95)


def test_answers_and_single_words_are_not_looked_for() -> None:
    assert [text.name for text in texts_of(TASKS)] == [
        "count.json, definition",
        "count.json, input 0",
        "ask.json, input 0",
    ]
    assert not found(row("a", "On the ice", "14", "Answer."))
    assert not Contamination([]).find([row("a", DEFINITION)])
    with pytest.raises(ValueError, match="runs of 4 words"):
        Contamination([], ngram=4)


def test_words_keep_their_places() -> None:
    words = Words.of("Für 3 Äpfel, bitte.")
    assert words.words == ("für", "3", "äpfel", "bitte")
    assert words.text[slice(*words.span(1, 2))] == "3 Äpfel"
