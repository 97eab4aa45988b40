"""Private data, near-duplicates and language: what is named, and what is left alone."""

from __future__ import annotations

import doctest
from typing import Any

import pytest

from refine_dagster.language import language_of
from refine_dagster.screening import finding, private_data
from refine_dagster.screening.screening import CHECKS, near_duplicates, other_language, screen

PRIVATE = {
    "email": "Write to jane.doe+list@mail.company.co.uk today.",
    "telephone": "Call +44 20 7946 0958 or wait.",
    "ip_address": "The server is 8.8.8.8 now.",
    "card_number": "Pay with 4111 1111 1111 1111 please.",
    "iban": "Send it to GB82 WEST 1234 5698 7654 32 soon.",
    "us_social_security_number": "It was 078-05-1120 on the card.",
    "token": "export KEY=ghp_" + "a1B2" * 9,
    "private_key": "-----BEGIN RSA PRIVATE KEY-----",
}
HARMLESS = (
    "Write to jane@example.com or jane@shop.test.",
    "The local address is 192.168.0.1, the manual's is 192.0.2.7.",
    "Sort 1, 2, 3, 10, 20, 30, 100 and 200.",
    "In 1999-2004 the price rose from 12.50 to 13.75.",
    "The code 4111 1111 1111 1112 has a wrong digit.",
    "Version 1.2.3.4000 came out.",
    "Call 212-555-0123, a number of films.",
    "What is 12 345 + 67?",
)


def row(row_id: str, instruction: str, given: str = "", output: str = "") -> dict[str, Any]:
    return {"row_id": row_id, "instruction": instruction, "input": given, "output": output}


@pytest.mark.parametrize("module", [finding, private_data])
def test_examples(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("rule", PRIVATE)
def test_private_data_is_named_with_its_span(rule: str) -> None:
    text = PRIVATE[rule]
    [found] = private_data.private_data([row("a", "Do it.", text)])
    assert (found.rule, found.field) == (rule, "input")
    assert text[found.start : found.end] == found.text


def test_every_rule_is_tested() -> None:
    assert set(PRIVATE) == set(private_data.RULES)


@pytest.mark.parametrize("text", HARMLESS)
def test_reserved_and_ordinary_numbers_are_left_alone(text: str) -> None:
    assert private_data.private_data([row("a", text)]) == []


def test_a_near_duplicate_names_the_earlier_row() -> None:
    rows = [
        row("a", "Write a short poem about the sea at night for a child."),
        row("b", "Write a short poem about the sea at dawn."),
        row("c", "Write a short poem about the sea at night for the child."),
        row("d", "Write a short poem about the sea at night for a child.", "Use rhymes, and more."),
        row("e", "!!!"),
        row("f", "!!!"),
    ]
    found = near_duplicates(rows, language_of("en"))
    assert [(one.row_id, one.against) for one in found] == [("c", "a"), ("f", "e")]


def test_a_field_in_another_script_is_named() -> None:
    rows = [row("a", "Name a fruit.", "", "яблоко"), row("b", "Name a fruit.", "", "12")]
    [found] = other_language(rows, language_of("en"))
    assert (found.row_id, found.field) == ("a", "output")


def test_checks_can_be_left_out() -> None:
    rows = [row("a", PRIVATE["email"], "", "яблоко")]
    made = screen(rows, [], language_of("en"))
    assert made.checks == CHECKS
    assert {one.check for one in made.findings} == {"private_data", "language"}
    assert made.rows_with("private_data") == 1
    fewer = screen(rows, [], language_of("en"), skip=("private_data",))
    assert {one.check for one in fewer.findings} == {"language"}
