"""Markdown for cards: tables and texts in which nothing of a model or a seed acts as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

# What has a meaning within a line of Markdown or starts HTML.
_MARKUP = re.compile(r"([\\`*_\[\]<>|&#~!$])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")


def plain(text: str) -> str:
    """A text that Markdown shows as it is, on one line.

    >>> plain("a <b>\\n| *c*")
    'a \\\\<b\\\\> \\\\| \\\\*c\\\\*'
    """
    return _MARKUP.sub(r"\\\1", " ".join(_CONTROL.sub("", text).split()))


def table(headings: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table; texts are shown as they are, numbers with four digits."""
    rows = [headings, ["---"] * len(headings), *([_cell(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def code_block(text: str, language: str = "") -> str:
    """A fenced block, whose fence is longer than any within it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else plain(str(value))
