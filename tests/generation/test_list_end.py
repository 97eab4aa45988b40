"""A list ends after the lines that were wanted, and before the first that repeats one."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import LlamaConfig

from refine_dagster.generation.decoding import Writing
from refine_dagster.generation.model_text import ModelText, list_end
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.hashing import json_hash
from refine_dagster.models.language_model import load_tokenizer, resolve_model
from refine_dagster.prompts.proposal import parse_task_list

LIST = " Sing.\nTask 10: Dance.\nTask 11: sing\nTask 12: Run.\nTask 13: Hide."


@pytest.fixture(scope="module")
def text(tiny_model_folder: Path) -> ModelText:
    tokenizer = load_tokenizer(resolve_model(str(tiny_model_folder)))
    return ModelText(tokenizer, LlamaConfig(), None)


def _write(text: ModelText, said: str, lines: int) -> Completion:
    """The completion of a model that says `said`, as far as it is let go on."""
    prompt = text.prompt("Task 8: Jump.\nTask 9:")
    tokens = text.label(said)
    row = Writing(prompt, Sampling(len(tokens), lines=lines), iter([0.5] * len(tokens)))
    for token in tokens:
        row.add(token, text)
        if row.finish is not None:
            break
    return row.completion(text)


def test_a_completion_ends_before_the_task_that_repeats_an_earlier_one(text: ModelText) -> None:
    completion = _write(text, LIST, 8)
    assert (completion.text, completion.finish_reason) == (" Sing.\nTask 10: Dance.", "stop")
    said = len(text.label(LIST[: LIST.index("Task 12")]))
    assert abs(completion.completion_tokens - said) <= 1


def test_a_completion_ends_after_the_tasks_that_were_wanted(text: ModelText) -> None:
    completion = _write(text, LIST.replace("sing", "Swim."), 4)
    assert [task.text for task in parse_task_list(completion.text)] == [
        "Sing.", "Dance.", "Swim.", "Run.",
    ]  # fmt: skip
    assert completion.finish_reason == "stop"


def test_no_rule_no_end(text: ModelText) -> None:
    completion = _write(text, LIST, 0)
    assert (completion.text, completion.finish_reason) == (LIST, "length")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("One.\nTask 2: one\n", "One."),
        ("One.\n\n2) ONE!\n", "One.\n"),
        ("One.\nTwo.", None),
        ("One.\nTask 2:\nTask 3:\n", None),
        ("唱歌。\nTask 2: 跳舞。\nTask 3: 唱歌\n", "唱歌。\nTask 2: 跳舞。"),
        ("Add 2 and 3.\nAdd 2 and 4.\n", None),
    ],
)
def test_what_counts_as_a_repetition(said: str, kept: str | None) -> None:
    end = list_end(said, 8)
    assert (None if end is None else said[:end]) == kept


def test_keys_of_requests_without_the_rule_are_those_of_before() -> None:
    request = Request("propose", "Task 1:", Sampling(4, 0.5, 0.9, 0.0, ("\n\n",)), 7)
    fields = {
        "max_new_tokens": 4,
        "temperature": 0.5,
        "top_p": 0.9,
        "presence_penalty": 0.0,
        "stop": ("\n\n",),
    }
    assert request.key("model") == json_hash(["model", "Task 1:", fields, 7])
    listed = Request("propose", "Task 1:", Sampling(4, 0.5, 0.9, 0.0, ("\n\n",), 8), 7)
    assert listed.key("model") == json_hash(["model", "Task 1:", {**fields, "lines": 8}, 7])
