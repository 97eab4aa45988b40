"""Marks of words: which words of an output stand in its task, and in which order.

Most of what makes a short answer right is that it has the task's own words, all of them, none
twice, in the order asked for. A transformer of a million parameters learns no circuit that compares
two words in the minutes of training of the offline profile, so an exact comparison marks each word,
like the exact-match feature of a question answering reader (Chen et al., arXiv 1704.00051). The
network learns which marks the right answer to a task has; the marks themselves do not tell right
from wrong. Answers without words of their task, such as sums, gain little.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum

from refine_dagster.prompts.example import NO_INPUT

WORD = re.compile(r"[^\W_]+")
# Two words are alike if they share all but the last TAIL letters, and at least STEM letters.
TAIL = 2
STEM = 3


class Mark(IntEnum):
    """What is known of a word; `NONE` is for everything that is no word."""

    NONE = 0
    # Words of the output.
    NEW = 1  # In neither the input nor the instruction.
    LIKE = 2  # Like a word of the task, such as its plural.
    INSTRUCTED = 3  # In the instruction only.
    STARTS = 4  # The first word taken from the input.
    NEXT = 5  # In the input, right after the word taken before it.
    ONWARD = 6  # In the input, farther on than the word taken before it.
    BACK = 7  # In the input, before the word taken before it.
    AGAIN = 8  # In the input, but taken as often as it stands there already.
    # Words of the task.
    TAKEN = 9  # A word of the input that the output has.
    LEFT = 10  # A word of the input that the output does not have.
    ECHOED = 11  # A word of the instruction that the output has.
    UNUSED = 12  # A word of the instruction that the output does not have.


Span = tuple[int, int]
Marked = list[tuple[Span, Mark]]


def marked_words(instruction: str, given: str, output: str) -> tuple[Marked, Marked, Marked]:
    """The words of instruction, input and output, each with its span in its text and its mark.

    Case is ignored. A word of both instruction and input counts as the input's. Where there is no
    input, words are taken from the instruction.

    >>> _, given, output = marked_words("Reverse it.", "one two", "two one")
    >>> [mark.name for _, mark in output], [mark.name for _, mark in given]
    (['STARTS', 'BACK'], ['TAKEN', 'TAKEN'])
    """
    of_instruction, of_input, of_output = (_words(text) for text in (instruction, given, output))
    answer = {word for _, word in of_output}
    source = of_input if of_input and given != NO_INPUT else of_instruction
    return (
        [(span, Mark.ECHOED if word in answer else Mark.UNUSED) for span, word in of_instruction],
        [(span, Mark.TAKEN if word in answer else Mark.LEFT) for span, word in of_input],
        _output_marks(
            of_output, [word for _, word in source], {word for _, word in of_instruction}
        ),
    )


def shifted(words: Marked, by: int) -> Marked:
    """The same words in a text with `by` more characters before them."""
    return [((start + by, end + by), mark) for (start, end), mark in words]


def _words(text: str) -> list[tuple[Span, str]]:
    return [(match.span(), match.group().lower()) for match in WORD.finditer(text)]


def _output_marks(
    words: Sequence[tuple[Span, str]], source: Sequence[str], instructed: set[str]
) -> Marked:
    positions: dict[str, list[int]] = {}
    for position, word in enumerate(source):
        positions.setdefault(word, []).append(position)
    known = sorted({*source, *instructed})
    marks: Marked = []
    last: int | None = None
    for span, word in words:
        free = positions.get(word)
        if free:
            # Of several equal words, the first after the last one taken, else the first.
            at = free.pop(bisect_left(free, last + 1) % len(free) if last is not None else 0)
            marks.append((span, _step(last, at)))
            last = at
        elif free is not None:
            marks.append((span, Mark.AGAIN))
        elif word in instructed:
            marks.append((span, Mark.INSTRUCTED))
        else:
            marks.append((span, Mark.LIKE if _has_like(word, known) else Mark.NEW))
    return marks


def _step(last: int | None, at: int) -> Mark:
    if last is None:
        return Mark.STARTS
    if at == last + 1:
        return Mark.NEXT
    return Mark.ONWARD if at > last else Mark.BACK


def _has_like(word: str, known: Sequence[str]) -> bool:
    """Whether a known word is like this one; numbers are like nothing.

    Words that share a beginning are neighbours in the sorted list.
    """
    stem = word[: max(STEM, len(word) - TAIL)]
    if len(stem) < STEM or not word.isalpha():
        return False
    at = bisect_left(known, stem)
    return at < len(known) and known[at].startswith(stem) and len(known[at]) <= len(word) + TAIL
