"""Chat templates that render the texts that a model was trained on, token for token.

A user's message is an instruction; behind a blank line follows its input, where it has one. With a
system message, that is the instruction and the user's message the input: so an instruction may
have blank lines. Models learnt from single questions: earlier turns stand in front, each ended.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

from refine_dagster.language import ENGLISH, Language
from refine_dagster.models.special_tokens import start_tokens
from refine_dagster.prompts.example import (
    ENDS,
    HEADER,
    NO_INPUT,
    STOP,
    instance_prompt,
    zero_shot_prompt,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_ZERO_SHOT = """\
{%- set ends = ENDS -%}
{%- macro ended(text) -%}
  {%- set text = text | trim -%}
  {{- text -}}{%- if text and text[-1] not in ends -%}.{%- endif -%}
{%- endmacro -%}
{{- START -}}
{%- set said = namespace(system=none) -%}
{%- for message in messages -%}
  {%- if message["role"] == "system" -%}
    {%- set said.system = message["content"] -%}
  {%- elif message["role"] == "user" -%}
    {%- if said.system is not none -%}
      {%- set instruction, given = said.system, message["content"] -%}
    {%- else -%}
      {%- set parts = message["content"].split("\\n\\n") -%}
      {%- set instruction, given = parts[0], parts[1:] | join("\\n\\n") -%}
    {%- endif -%}
    {{- "Definition: " ~ ended(instruction) -}}
    {{- "\\n\\nNow complete the following example -\\nInput: " -}}
    {{- (ended(given) or NO_INPUT) ~ "\\nOutput:" -}}
  {%- else -%}
    {%- generation -%}{{- " " ~ message["content"] ~ eos_token -}}{%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""

_INSTANCE = """\
{{- START -}}
{%- for message in messages -%}
  {%- if message["role"] == "system" -%}
    {{- raise_exception("this model takes no system message") -}}
  {%- elif message["role"] == "user" -%}
    {{- HEADER ~ "\\n\\nInstruction: " ~ message["content"] ~ "\\nInput:" -}}
  {%- else -%}
    {%- generation -%}
      {{- " " ~ message["content"] ~ STOP ~ eos_token -}}
    {%- endgeneration -%}
  {%- endif -%}
{%- endfor -%}
"""
# Rendered with the exported tokenizer: with and without an input, an end, letters of other scripts.
_PROBES = (
    ("Name a fruit.", ""),
    ("Count the words", "red old boat"),
    ("Give the opposite of the word!", "warm."),
    ("समानार्थी शब्द बताओ।", "海"),
)


def answer_template(tokenizer: PreTrainedTokenizerBase) -> str:
    """The template of a model that answers the evaluation's zero-shot prompt: base and arms."""
    named = {
        "START": _start(tokenizer),
        "NO_INPUT": NO_INPUT,
        "ENDS": "".join(sorted(ENDS)),
    }
    return _filled(_ZERO_SHOT, named)


def instance_template(tokenizer: PreTrainedTokenizerBase, language: Language = ENGLISH) -> str:
    """The template of a policy: asked an instruction, it writes an input and an output."""
    named = {"START": _start(tokenizer), "HEADER": language.header or HEADER, "STOP": STOP[0]}
    return _filled(_INSTANCE, named)


def renders_exactly(tokenizer: PreTrainedTokenizerBase, language: Language | None = None) -> bool:
    """Whether the tokenizer's chat template gives the very tokens of the project's own prompts.

    Args:
        language: that of a policy's prompt; None for the zero-shot prompt.
    """
    for instruction, given in _PROBES:
        if language is None:
            asked = f"{instruction}\n\n{given}" if given else instruction
            prompt = zero_shot_prompt(instruction, given)
        else:
            asked = instruction
            prompt = instance_prompt(instruction, [], language)
        messages = [{"role": "user", "content": asked}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        rendered = tokenizer(text, add_special_tokens=False)["input_ids"]
        if rendered != tokenizer(prompt)["input_ids"]:
            return False
    return True


def _start(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the tokenizer puts in front of a text, which templates have to put there themselves."""
    return "".join(tokenizer.convert_ids_to_tokens(start_tokens(tokenizer)))


def _filled(template: str, named: dict[str, str]) -> str:
    """The template with texts in the place of names in capitals."""
    names = re.compile(rf"\b(?:{'|'.join(named)})\b")
    return names.sub(lambda name: json.dumps(named[name[0]], ensure_ascii=False), template)
