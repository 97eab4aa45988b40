"""The tokenizer gives text back, cuts prompts as it cuts joined text, and is reproducible."""

from __future__ import annotations

from pathlib import Path

import pytest

from refine_dagster.offline.base_model import END, PAD, train_tokenizer
from refine_dagster.prompts.example import Example, instance_prompt

TEXTS = [
    Example("Reverse the order of the words.", "red 12 fish", "fish 12 red").render() + "\n\n",
    Example("Name the sound of a dog.", "", "bark").render() + "\n\n",
] * 20


@pytest.mark.parametrize(
    "text",
    [
        "Reverse the words.\n\nInput:",
        "naïve façade 日本 🙂",
        "  two  blanks\t\r\n",
        "don't 3.14",
        "",
    ],
)
def test_round_trip(text: str) -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, context_length=128)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_prompt_is_a_start_of_the_joined_text() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, context_length=128)
    shown = Example("Name the sound of a dog.", "", "bark")
    prompt = instance_prompt("Reverse the order of the words.", [shown])
    for going_on in (" <noinput>\nOutput: 1", "\n\nInstruction: Name", " red"):
        whole = tokenizer(prompt + going_on)["input_ids"]
        start = tokenizer(prompt)["input_ids"]
        assert whole[: len(start)] == start
    assert tokenizer("\n\n")["input_ids"] == tokenizer("\n")["input_ids"] * 2
    assert len(tokenizer(" 123")["input_ids"]) >= 3


def test_special_tokens_and_size() -> None:
    tokenizer = train_tokenizer(TEXTS, vocab_size=320, context_length=128)
    assert 258 < len(tokenizer) <= 320
    assert (tokenizer.eos_token, tokenizer.pad_token) == (END, PAD)
    assert tokenizer(f"a{END}b")["input_ids"].count(tokenizer.eos_token_id) == 1
    assert tokenizer.model_max_length == 128


def test_equal_texts_give_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        train_tokenizer(TEXTS, vocab_size=400, context_length=128).save_pretrained(tmp_path / name)
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert "tokenizer.json" in names
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
