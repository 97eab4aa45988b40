"""Marks of words: worked out by hand, and at the tokens that they belong to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.config.models import DeviceConfig
from refine_dagster.judge.network import JudgeError, Network, new_heads
from refine_dagster.judge.word_marks import Mark, marked_words
from refine_dagster.models.device import Device, device_session
from refine_dagster.models.language_model import loaded_model, resolve_model
from refine_dagster.prompts.example import Example


def _names(instruction: str, given: str, output: str) -> tuple[str, str, str]:
    parts = marked_words(instruction, given, output)
    asked, told, said = (" ".join(mark.name for _, mark in part) for part in parts)
    return asked, told, said


@pytest.mark.parametrize(
    ("instruction", "given", "output", "expected"),
    [
        ("Copy.", "a, b, c", "a, b, c", "STARTS NEXT NEXT"),
        ("Reverse.", "a, b, c", "c, b, a", "STARTS BACK BACK"),
        ("Keep some.", "a, b, c, d", "a, c, d", "STARTS ONWARD NEXT"),
        ("Once each.", "a, b, a", "a, b", "STARTS NEXT"),
        ("Twice.", "a, b", "a, b, a, b", "STARTS NEXT AGAIN AGAIN"),
        ("Twice.", "a b a b", "a b a b", "STARTS NEXT NEXT NEXT"),
        ("Plural.", "garden", "gardens", "LIKE"),
        ("Past.", "They walk.", "They walked.", "STARTS LIKE"),
        ("Capitals.", "dog", "DOG", "STARTS"),
        ("Add plum at the end.", "fig", "fig, plum", "STARTS INSTRUCTED"),
        ("Add.", "12 and 3", "15", "NEW"),
        ("Largest?", "12, 3", "12", "STARTS"),
        # Without an input, words are taken from the instruction.
        ("Sort fig, date.", "", "date, fig", "STARTS BACK"),
        ("Say it.", "", "猫 é", "NEW NEW"),
        ("Say it.", "one", "", ""),
        ("Say it.", "one", "... !", ""),
    ],
)
def test_marks_of_the_output(instruction: str, given: str, output: str, expected: str) -> None:
    assert _names(instruction, given, output)[2] == expected


def test_marks_of_the_task() -> None:
    asked, told, _ = _names("Remove fig and fruit.", "Fig, pear, date", "pear, fruit")
    assert asked == "UNUSED UNUSED UNUSED ECHOED"
    assert told == "LEFT TAKEN LEFT"


def test_numbers_and_short_words_are_like_nothing() -> None:
    assert _names("Add.", "123", "1234")[2] == "NEW"
    assert _names("Say.", "an", "ant")[2] == "NEW"
    assert _names("Say.", "star", "starlight")[2] == "NEW"


@pytest.fixture(scope="module")
def network(tiny_model_folder: Path) -> Iterator[Network]:
    with device_session(DeviceConfig(device="cpu", threads=1)) as device:
        yield from _network(tiny_model_folder, device)


def _network(folder: Path, device: Device) -> Iterator[Network]:
    with loaded_model(resolve_model(str(folder)), device) as loaded:
        yield Network(loaded.model, new_heads(loaded.model), loaded.tokenizer, device)


def test_every_token_has_the_mark_of_its_word(network: Network) -> None:
    example = Example("Reverse the xylophone words.", "zebra, quilt", "quilt, zebra xyz")
    encoded = network.encode(example)
    assert len(encoded.ids) == len(encoded.marks)
    ids = network.tokenizer(example.render(), add_special_tokens=False)["input_ids"]
    assert list(encoded.ids) == [*ids, network.tokenizer.eos_token_id]

    def text(mark: Mark) -> str:
        chosen = [
            token for token, one in zip(encoded.ids, encoded.marks, strict=True) if one == mark
        ]
        return str(network.tokenizer.decode(chosen)).replace(" ", "")

    assert text(Mark.TAKEN) == "zebraquilt"
    assert text(Mark.STARTS) == "quilt"
    assert text(Mark.BACK) == "zebra"
    assert text(Mark.NEW) == "xyz"
    assert text(Mark.UNUSED) == "Reversethexylophonewords"
    assert encoded.marks[-1] == Mark.NONE


def test_a_tokenizer_that_gives_no_places_is_refused(network: Network, device: Device) -> None:
    from transformers import ByT5Tokenizer

    with pytest.raises(JudgeError, match="ByT5Tokenizer does not give the characters"):
        Network(network.backbone, network.heads, ByT5Tokenizer(), device)


def test_the_marker_line_of_an_empty_input_is_no_word(network: Network) -> None:
    encoded = network.encode(Example("Say noinput.", "", "noinput"))
    body = encoded.marks[encoded.given : encoded.response]
    assert set(body) == {Mark.NONE}
