"""TODO."""

from __future__ import annotations

import string

from refine_dagster.prompts.example import NO_INPUT


def zero_shot_prompt(definition: str, input: str) -> str:
    """The benchmark's prompt with a definition and no examples.

    A field whose last character is no ASCII punctuation gets a full stop; an empty input is
    written `<noinput>`, as everywhere in this project. The prompt ends in `Output:` without the
    space that the benchmark puts there: completions begin with that space, so that byte-level
    tokenisers see `Output:` and ` answer` in training and in evaluation alike.

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
