"""The list parser keeps every piece, with the reason where a piece is no candidate."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from refine_dagster.prompts.proposal import Candidate, parse_task_list


def test_known_answers() -> None:
    text = " Name a bird.\nTask 10: Sing a song.\n\nTask 11:\nsome talk\nTask 13: Skip one."
    assert parse_task_list(text) == [
        Candidate("Name a bird."),
        Candidate("Sing a song."),
        Candidate("", "empty"),
        Candidate("some talk", "unnumbered"),
        Candidate("Skip one."),
    ]


def test_the_last_piece_of_a_cut_completion_is_cut_off() -> None:
    text = " Name a bird.\nTask 10: Sing a so"
    assert parse_task_list(text, finished=False)[-1] == Candidate("Sing a so", "cut_off")
    assert parse_task_list(" Name", finished=False) == [Candidate("Name", "cut_off")]


def test_nothing_at_all_is_one_empty_piece() -> None:
    assert parse_task_list("") == [Candidate("", "empty")]


@given(st.text(alphabet=st.sampled_from("Task 123:\n ab"), max_size=80))
def test_no_line_is_lost(text: str) -> None:
    candidates = parse_task_list(text)
    assert all(candidate.text in text for candidate in candidates)
    non_blank = [line for line in text.split("\n")[1:] if line.strip()]
    assert len(candidates) == 1 + len(non_blank)
