"""The layouts of an exported dataset: which columns a row has, and what kind of file it is in.

| layout | columns | files |
|---|---|---|
| `hf` | instruction, input, output | Parquet, named as on the Hugging Face Hub |
| `alpaca` | instruction, input, output | JSON lines |
| `messages` | messages: role and content | JSON lines |
| `sharegpt` | conversations: from and value | JSON lines |
| `prompt-completion` | prompt, completion: the text that the arms learn | JSON lines |
| `preference` | prompt, chosen, rejected and their rewards | JSON lines |
| `jsonl`, `csv`, `parquet` | every column of `instruction_dataset` | as named |

A message holds the instruction and, behind a blank line, the input. Where the instruction has a
blank line of its own it is the system message instead, as chat templates here read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from refine_dagster.language import Language
from refine_dagster.prompts.example import Example, instance_lesson, zero_shot_lesson

LayoutName = Literal[
    "hf",
    "alpaca",
    "messages",
    "prompt-completion",
    "sharegpt",
    "preference",
    "jsonl",
    "csv",
    "parquet",
]
FileKind = Literal["jsonl", "csv", "parquet"]
Values = Mapping[str, Any]


@dataclass(frozen=True)
class Layout:
    """A layout; `render` gives its own columns of a row, None those of the table."""

    file: FileKind
    render: Callable[[Values], dict[str, Any]] | None = None


def _texts(row: Values) -> dict[str, Any]:
    return {name: row[name] for name in ("instruction", "input", "output")}


def _turns(row: Values) -> list[tuple[str, str]]:
    """Who says what: (role, text)."""
    instruction, given = row["instruction"], row["input"]
    if "\n\n" in instruction:
        asked = [("system", instruction), ("user", given)]
    else:
        asked = [("user", f"{instruction}\n\n{given}" if given else instruction)]
    return [*asked, ("assistant", row["output"])]


def _messages(row: Values) -> dict[str, Any]:
    return {"messages": [{"role": role, "content": text} for role, text in _turns(row)]}


def _sharegpt(row: Values) -> dict[str, Any]:
    names = {"system": "system", "user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names[role], "value": text} for role, text in _turns(row)]}


def _prompt_completion(row: Values) -> dict[str, Any]:
    prompt, completion = zero_shot_lesson(Example.of(row))
    return {"prompt": prompt, "completion": completion}


LAYOUTS: Mapping[LayoutName, Layout] = {
    "hf": Layout("parquet", _texts),
    "alpaca": Layout("jsonl", _texts),
    "messages": Layout("jsonl", _messages),
    "prompt-completion": Layout("jsonl", _prompt_completion),
    "sharegpt": Layout("jsonl", _sharegpt),
    "preference": Layout("jsonl"),
    "jsonl": Layout("jsonl"),
    "csv": Layout("csv"),
    "parquet": Layout("parquet"),
}


def preference(better: Values, worse: Values, language: Language) -> dict[str, Any]:
    """Two instances of one instruction, in the words of a policy's prompt without demonstrations.

    The policy writes input and output, so a pair may differ in both.
    """
    prompt, chosen = instance_lesson(Example.of(better), language)
    _, rejected = instance_lesson(Example.of(worse), language)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "chosen_reward": better["reward"],
        "rejected_reward": worse["reward"],
    }
