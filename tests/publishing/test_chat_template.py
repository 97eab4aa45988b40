"""Chat templates give the tokens that training gives, for tokenizers of every kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from refine_dagster.language import ENGLISH, language_of
from refine_dagster.prompts.example import Example
from refine_dagster.publishing.chat_template import (
    answer_template,
    instance_template,
    renders_exactly,
)
from refine_dagster.training.sft import training_example
from tests.families.tokenizers import byte_fallback, byte_level

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

EXAMPLES = [
    Example("Name a fruit.", "", "a pear"),
    Example("Count the words", "red old boat", "3"),
    Example("Reverse the lines!", "one\n\ntwo", "two\n\none"),
    Example("  Name the fish  ", "।", '{{ "no" }} {% raw %}'),
]


@pytest.fixture(params=["byte level", "byte level, start", "byte fallback, start"])
def tokenizer(request: pytest.FixtureRequest) -> PreTrainedTokenizerFast:
    kind, _, start = request.param.partition(", ")
    make = byte_level if kind == "byte level" else byte_fallback
    return make(end="</s>", start="<s>" if start else None, pad="<pad>")


def rendered(tokenizer: PreTrainedTokenizerFast, *messages: tuple[str, str]) -> list[int]:
    said = [{"role": role, "content": content} for role, content in messages]
    text = tokenizer.apply_chat_template(said, tokenize=False)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


@pytest.mark.parametrize("example", EXAMPLES)
def test_a_question_and_its_answer_are_the_tokens_of_an_example(
    tokenizer: PreTrainedTokenizerFast, example: Example
) -> None:
    tokenizer.chat_template = answer_template(tokenizer)
    trained = training_example(tokenizer, example)["input_ids"]
    asked = f"{example.instruction}\n\n{example.input}" if example.input else example.instruction
    assert rendered(tokenizer, ("user", asked), ("assistant", example.output)) == trained
    split = ("system", example.instruction), ("user", example.input)
    assert rendered(tokenizer, *split, ("assistant", example.output)) == trained
    assert renders_exactly(tokenizer)


@pytest.mark.parametrize("code", ["en", "de"])
def test_a_policy_is_asked_as_it_was_trained(tokenizer: PreTrainedTokenizerFast, code: str) -> None:
    language = language_of(code)
    tokenizer.chat_template = instance_template(tokenizer, language)
    example = Example("Name a fruit.", "", "a pear")
    trained = training_example(tokenizer, example, "instance", language)["input_ids"]
    answer = "<noinput>\nOutput: a pear"
    assert rendered(tokenizer, ("user", "Name a fruit."), ("assistant", answer)) == trained
    assert renders_exactly(tokenizer, language)
    assert renders_exactly(tokenizer, ENGLISH) == (code == "en")


def test_a_reply_is_what_trl_learns_from(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer.chat_template = answer_template(tokenizer)
    messages = [
        {"role": "user", "content": "Name a fruit."},
        {"role": "assistant", "content": "a pear"},
    ]
    done = tokenizer.apply_chat_template(
        messages, return_dict=True, return_assistant_tokens_mask=True
    )
    learnt = [
        token
        for token, is_answer in zip(done["input_ids"], done["assistant_masks"], strict=True)
        if is_answer
    ]
    assert tokenizer.decode(learnt).strip() == "a pear</s>"


def test_a_policy_takes_no_system_message(tokenizer: PreTrainedTokenizerFast) -> None:
    from jinja2 import TemplateError

    tokenizer.chat_template = instance_template(tokenizer)
    with pytest.raises(TemplateError, match="no system message"):
        rendered(tokenizer, ("system", "Be kind."), ("user", "Name a fruit."))
