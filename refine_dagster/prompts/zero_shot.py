"""The zero-shot prompt of SUPER-NI, for fine-tuning and evaluation (docs/methods.md, section 4)."""

from __future__ import annotations

import string

from refine_dagster.prompts.example import NO_INPUT


def zero_shot_prompt(definition: str, input: str) -> str:
    """The benchmark's prompt with a definition and no examples.

    A field that does not end in ASCII punctuation gets a full stop; an empty input becomes
    `<noinput>`. The benchmark's space after `Output:` is left to the completion, so that byte-level
    tokenisers see `Output:` and ` answer` in training and in evaluation.

    >>> print(zero_shot_prompt("Name the largest number", "3, 9, 4"))
    Definition: Name the largest number.
    <BLANKLINE>
    Now complete the following example -
    Input: 3, 9, 4.
    Output:
    """
    return (
        f"Definition: {_ended(definition)}\n\n"
        f"Now complete the following example -\nInput: {_ended(input) or NO_INPUT}\nOutput:"
    )


def _ended(text: str) -> str:
    text = text.strip()
    return f"{text}." if text and text[-1] not in string.punctuation else text
