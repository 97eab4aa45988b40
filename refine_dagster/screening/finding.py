"""What a screening found, and the words of a text with their places."""

from __future__ import annotations

import re
from dataclasses import dataclass

FIELDS = ("instruction", "input", "output")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Finding:
    """A span of a row that a check names.

    Attributes:
        check: `contamination`, `private_data`, `near_duplicates` or `language`.
        rule: what in the check found it, such as `8-gram` or `email`.
        start, end: characters of the row's field.
        text: what stands there.
        value: what the rule measured; None where it measures nothing.
        against: the task, instance or row that it is like; empty otherwise.
    """

    check: str
    rule: str
    row_id: str
    field: str
    start: int
    end: int
    text: str
    value: float | None = None
    against: str = ""


@dataclass(frozen=True)
class Words:
    """The words of a text, in lower case, with the characters that they take."""

    text: str
    words: tuple[str, ...]
    places: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, text: str) -> Words:
        """
        >>> Words.of("It's 5.").words
        ('it', 's', '5')
        """
        found = list(_WORD.finditer(text))
        return cls(text, tuple(m[0].lower() for m in found), tuple(m.span() for m in found))

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Characters from the first to the last of some words, both included."""
        return self.places[first][0], self.places[last][1]
