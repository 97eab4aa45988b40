"""Each rule fires on its own case, in the authors' order."""

from __future__ import annotations

import pytest

from refine_dagster.self_instruct.heuristics import Rejection, first_rejection


@pytest.mark.parametrize(
    ("instruction", "rule"),
    [
        ("   ", "empty"),
        ("Name a fruit", "too_short"),
        ("word " * 151, "too_long"),
        ("Describe what is in this image please.", "unsuited_word"),
        ("Tell me how to Go To the station.", "unsuited_word"),
        ("Open the FILES and count the lines.", "unsuited_word"),
        ("Write a program that sorts a list of numbers.", "write_a_program"),
        ("- name a fruit that is red", "starts_with_punctuation"),
        ("¿Qué fruta es roja y dulce?", "starts_outside_ascii"),
        ("A Ω Ψ", "too_short"),
    ],
)
def test_rule(instruction: str, rule: str) -> None:
    rejection = first_rejection(instruction)
    assert rejection is not None
    assert rejection.rule == rule


@pytest.mark.parametrize(
    "instruction",
    [
        "Name four red fruits.",
        "word " * 150,
        "Describe the imagery of this poem.",
        "Make a profile of the hero.",
        "write a program for the school concert",
    ],
)
def test_passes(instruction: str) -> None:
    assert first_rejection(instruction) is None


def test_no_tokens_is_refused() -> None:
    assert first_rejection("A Ω Ψ Φ Σ") is None  # one token, "a"
    # A blank is ASCII and no punctuation, so no earlier rule fires.
    assert first_rejection(" Ω Ψ Φ Σ") == Rejection("no_tokens")


def test_values_and_thresholds_are_told() -> None:
    assert first_rejection("Name it now") == Rejection("too_short", 3, 3)
    assert first_rejection("word " * 151) == Rejection("too_long", 151, 150)
