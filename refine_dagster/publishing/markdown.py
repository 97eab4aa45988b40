"""Markdown for cards: tables and blocks in which nothing of a model or a seed acts as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from refine_dagster.escapes import markdown_text, terminal_text


def table(headings: Sequence[str], lines: Iterable[Sequence[Any]]) -> str:
    """A table; texts are shown as they are, numbers with four digits."""
    rows = [headings, ["---"] * len(headings), *([_cell(cell) for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def code_block(text: str, language: str = "") -> str:
    """A fenced block, whose fence is longer than any within it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{terminal_text(text).rstrip()}\n{fence}"


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else markdown_text(str(value))
