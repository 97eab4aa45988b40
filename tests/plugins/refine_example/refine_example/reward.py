"""A reward part: short completions score higher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def brevity(prompts: Sequence[str], completions: Sequence[str], **columns: Any) -> list[float]:
    """1 for an empty completion, towards 0 the more words it has."""
    return [1 / (1 + len(text.split())) for text in completions]
