"""Where a list that a model writes has ended: small models go on with what they wrote before."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"^\W*(?:task\W*)?\d+\W*", re.IGNORECASE)


def list_end(text: str, most: int) -> int | None:
    """Where a list ends: behind its line `most`, or before a line that says an earlier one again.

    Lines are compared without their numbers, case and punctuation; blank ones do not count. The
    last line, which may go on, is not looked at.

    >>> text = " Sing.\\nTask 10: Dance.\\nTask 11: sing\\nTask 12"
    >>> text[: list_end(text, 8)]
    ' Sing.\\nTask 10: Dance.'
    >>> text[: list_end(text, 1)]
    ' Sing.'
    """
    seen: set[str] = set()
    start = 0
    for line in text.split("\n")[:-1]:
        words = " ".join(re.findall(r"\w+", _NUMBER.sub("", line).casefold()))
        if words and words in seen:
            return start - 1
        if words:
            seen.add(words)
        start += len(line) + 1
        if len(seen) == most:
            return start - 1
    return None
