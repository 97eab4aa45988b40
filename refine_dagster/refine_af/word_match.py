"""Which words of an output stand in its task: exact-match marks beside the judge's tokens.

Most of what makes a short answer right is that it holds the task's own words, all of them, none
twice, in the order asked for. A transformer of a million parameters does not find that out: trained
within the offline profile's minutes it has no circuit that compares two words, and so tells a right
answer from a wrong one of the same kind no better than a coin does. Comparing words needs no
learning, though. So every word is marked by an exact comparison, as readers of question answering
were given an exact-match feature beside each embedding (Chen et al., arXiv 1704.00051), and the
network is left with what it can learn: which marks the right answer to such a task has. Answers
that hold no word of their task, such as sums and facts, are judged little better for it.

The marks say nothing of what is right: copying the input gets the same marks in a task that asks to
join words and in one that asks to sort them. `judge_training.py` teaches the difference.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from enum import IntEnum

from refine_dagster.refine_af.instance_prompt import NO_INPUT

WORD = re.compile(r"[^\W_]+")
# Two words are alike that share their beginning but for so many letters, and at least so many.
TAIL = 2
STEM = 3


class Mark(IntEnum):
    """What is known of a word; `NONE` also marks everything that is no word."""

    NONE = 0
    # Words of the output.
    NEW = 1
    """In neither the input nor the instruction."""
    LIKE = 2
    """Like a word of the task, such as its plural."""
    INSTRUCTED = 3
    """In the instruction only."""
    STARTS = 4
    """The first word taken from the input."""
    NEXT = 5
    """In the input, right after the word taken before it."""
    ONWARD = 6
    """In the input, farther on than the word taken before it."""
    BACK = 7
    """In the input, before the word taken before it."""
    AGAIN = 8
    """In the input, but the output has taken it as often as it stands there."""
    # Words of the task.
    TAKEN = 9
    """A word of the input that the output has."""
    LEFT = 10
    """A word of the input that the output has not."""
    ECHOED = 11
    """A word of the instruction that the output has."""
    UNUSED = 12
    """A word of the instruction that the output has not."""


Span = tuple[int, int]
Marked = list[tuple[Span, Mark]]


def marked_words(instruction: str, given: str, output: str) -> tuple[Marked, Marked, Marked]:
    """The words of instruction, input and output, each with its place in its text and its mark.

    Upper and lower case are equal. A word that stands in instruction and input counts as the
    input's. Where there is no input, the instruction is what words are taken from.

    >>> _, given, output = marked_words("Reverse it.", "one two", "two one")
    >>> [mark.name for _, mark in output], [mark.name for _, mark in given]
    (['STARTS', 'BACK'], ['TAKEN', 'TAKEN'])
    """
    asked, told, said = (_words(text) for text in (instruction, given, output))
    answer = {word for _, word in said}
    source = told if told and given != NO_INPUT else asked
    return (
        [(span, Mark.ECHOED if word in answer else Mark.UNUSED) for span, word in asked],
        [(span, Mark.TAKEN if word in answer else Mark.LEFT) for span, word in told],
        _output_marks(said, [word for _, word in source], {word for _, word in asked}),
    )


def _words(text: str) -> list[tuple[Span, str]]:
    return [(found.span(), found.group().lower()) for found in WORD.finditer(text)]


def _output_marks(
    said: Sequence[tuple[Span, str]], source: Sequence[str], asked: set[str]
) -> Marked:
    places: dict[str, list[int]] = {}
    for place, word in enumerate(source):
        places.setdefault(word, []).append(place)
    known = sorted({*source, *asked})
    marks: Marked = []
    before: int | None = None
    for span, word in said:
        free = places.get(word)
        if free:
            # Of several equal words, the one that goes on from the last, else the first.
            at = free.pop(bisect_left(free, before + 1) % len(free) if before is not None else 0)
            marks.append((span, _step(before, at)))
            before = at
        elif free is not None:
            marks.append((span, Mark.AGAIN))
        elif word in asked:
            marks.append((span, Mark.INSTRUCTED))
        else:
            marks.append((span, Mark.LIKE if _has_like(word, known) else Mark.NEW))
    return marks


def _step(before: int | None, at: int) -> Mark:
    if before is None:
        return Mark.STARTS
    if at == before + 1:
        return Mark.NEXT
    return Mark.ONWARD if at > before else Mark.BACK


def _has_like(word: str, known: Sequence[str]) -> bool:
    """Whether a known word shares all but the last letters with this one; numbers are never alike.

    Words that share a beginning are neighbours in the sorted list.
    """
    stem = word[: max(STEM, len(word) - TAIL)]
    if len(stem) < STEM or not word.isalpha():
        return False
    at = bisect_left(known, stem)
    return at < len(known) and known[at].startswith(stem) and len(known[at]) <= len(word) + TAIL
