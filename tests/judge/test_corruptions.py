"""Corruptions do the damage that their kind says, the same in every run and order."""

from __future__ import annotations

from random import Random

import pytest

from refine_dagster.judge.corruptions import DIMENSIONS, KINDS, Corruptor
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example

SOURCES = [task.example for task in primer_tasks(200, 11)]
PROSE = Example("Write a sentence about the sea.", "", "The waves roll over the warm sand today.")
LIST = Example("Sort the words.", "pear, fig, apple, lime", "apple, fig, lime, pear")
SUM = Example("Add the two numbers.", "4 and 9", "13")


@pytest.fixture(scope="module")
def corruptor() -> Corruptor:
    return Corruptor([*SOURCES, PROSE, LIST, SUM])


def _made(corruptor: Corruptor, example: Example, kind: str, run_seed: str = "salt") -> Example:
    made = corruptor.corrupt(example, kind, run_seed)
    assert made is not None
    assert made.kind == kind
    return made.example


def test_equal_arguments_give_equal_corruptions_whatever_the_order(corruptor: Corruptor) -> None:
    shuffled = [PROSE, SUM, *SOURCES, LIST, SOURCES[0]]
    Random(5).shuffle(shuffled)
    other = Corruptor(shuffled)
    for example in (*SOURCES[:40], PROSE, LIST, SUM):
        assert corruptor.corruptions(example, "a") == other.corruptions(example, "a")


def test_another_salt_gives_other_corruptions(corruptor: Corruptor) -> None:
    first = [corruptor.corruptions(example, "a") for example in SOURCES[:40]]
    assert first != [corruptor.corruptions(example, "b") for example in SOURCES[:40]]


def test_a_corruption_changes_the_triple_and_never_its_instruction(corruptor: Corruptor) -> None:
    for example in SOURCES:
        for one in corruptor.corruptions(example, "salt"):
            assert one.example.instruction == example.instruction
            assert one.example != example, one.kind
            assert one.example.output.strip(), one.kind


def test_every_kind_occurs_and_every_dimension_is_harmed_and_spared(corruptor: Corruptor) -> None:
    made = [one for example in SOURCES for one in corruptor.corruptions(example, "salt")]
    assert {one.kind for one in made} == set(KINDS)
    for dimension in DIMENSIONS:
        labels = {one.label(dimension) for one in made}
        assert False in labels
    for dimension in ("naturalness", "understandability"):
        assert any(dimension in kind.spares for kind in KINDS.values())


def test_no_kind_harms_and_spares_one_dimension() -> None:
    for name, kind in KINDS.items():
        assert kind.harms, name
        assert not kind.harms & kind.spares, name


def test_what_cannot_be_understood_is_neither_natural_nor_an_answer() -> None:
    for name, kind in KINDS.items():
        if "understandability" in kind.harms:
            assert kind.harms == set(DIMENSIONS), name


def test_shuffled_words_are_the_same_words(corruptor: Corruptor) -> None:
    made = _made(corruptor, PROSE, "shuffled_words")
    assert sorted(made.output.split()) == sorted(PROSE.output.split())
    assert made.output != PROSE.output


def test_dropped_words_leave_the_others_in_order(corruptor: Corruptor) -> None:
    left = _made(corruptor, PROSE, "dropped_words").output.split()
    words = iter(PROSE.output.split())
    assert all(word in words for word in left)
    assert len(left) == 5


def test_truncated_is_a_start(corruptor: Corruptor) -> None:
    made = _made(corruptor, PROSE, "truncated").output
    assert PROSE.output.startswith(made)
    assert len(made) < len(PROSE.output)


def test_repeated_holds_all_the_words_and_more(corruptor: Corruptor) -> None:
    words = _made(corruptor, PROSE, "repeated").output.split()
    assert len(words) > len(PROSE.output.split())
    assert set(words) == set(PROSE.output.split())


def test_damage_to_word_order_spares_lists_and_labels(corruptor: Corruptor) -> None:
    for kind in ("shuffled_words", "dropped_words", "truncated"):
        assert corruptor.corrupt(LIST, kind, "salt") is None
        assert corruptor.corrupt(SUM, kind, "salt") is None


def test_other_output_and_near_output_are_outputs_of_other_tasks(corruptor: Corruptor) -> None:
    outputs = {example.output for example in (*SOURCES, PROSE, LIST, SUM)} - {LIST.output}
    for kind in ("other_output", "near_output"):
        made = _made(corruptor, LIST, kind)
        assert made.output in outputs
        assert made.input == LIST.input


def test_near_output_comes_from_a_task_worded_alike() -> None:
    good = Example("Is this review positive or negative?", "I loved it.", "positive")
    alike = Example("Is this review positive or negative?", "I hated it.", "negative")
    apart = [Example(f"Give the number {n} in words now.", "", f"word{n}") for n in range(40)]
    corruptor = Corruptor([good, alike, *apart])
    assert _made(corruptor, good, "near_output").output == "negative"


def test_near_output_is_not_another_right_answer_to_an_open_task() -> None:
    good = Example("Write about the beach.", "", "The beach is sunny.")
    also_right = Example("Write a line about the beach.", "", "We walk along the beach.")
    wrong = Example("Write about the school.", "", "Pupils learn to read.")
    corruptor = Corruptor([good, also_right, wrong])
    assert _made(corruptor, good, "near_output").output == wrong.output


def test_wrong_number_is_another_number(corruptor: Corruptor) -> None:
    made = _made(corruptor, SUM, "wrong_number").output
    assert made.isdigit()
    assert made != "13"
    assert corruptor.corrupt(LIST, "wrong_number", "salt") is None


def test_wrong_order_keeps_to_the_tasks_words(corruptor: Corruptor) -> None:
    made = _made(corruptor, LIST, "wrong_order").output
    assert made != LIST.output
    assert set(made.split(", ")) <= set(LIST.output.split(", "))
    assert corruptor.corrupt(PROSE, "wrong_order", "salt") is None


def test_wrong_order_leaves_an_unordered_list_alone(corruptor: Corruptor) -> None:
    free = Example("Name three animals.", "", "cow, hen, fox")
    assert corruptor.corrupt(free, "wrong_order", "salt") is None


def test_inputs(corruptor: Corruptor) -> None:
    assert _made(corruptor, LIST, "missing_input").input == ""
    assert corruptor.corrupt(PROSE, "missing_input", "salt") is None
    assert _made(corruptor, LIST, "copied_input").output == LIST.input
    inputs = {example.input for example in SOURCES}
    assert _made(corruptor, SUM, "other_input").input in inputs - {"", SUM.input}
    assert _made(corruptor, PROSE, "other_input").input


def test_a_lone_source_still_has_the_damage_that_needs_no_other() -> None:
    kinds = {one.kind for one in Corruptor([PROSE]).corruptions(PROSE, "salt")}
    assert {"shuffled_words", "truncated", "repeated", "format_leftover"} <= kinds
    assert not kinds & {"other_output", "other_input", "near_output", "wrong_word"}


def test_text_of_any_script_and_shape_is_survived() -> None:
    odd = [
        Example("Übersetze das.", "猫 犬", "cat, dog"),
        Example("x", "", "."),
        Example("Say {this}.", "a {b}", "{output} {0}"),
        Example("Name it.", "", "🙂"),
    ]
    corruptor = Corruptor(odd)
    for example in odd:
        for one in corruptor.corruptions(example, "salt"):
            assert one.example.output
