"""Self-Instruct's rules for instructions, each with a name, a value and a threshold.

The rules and their order are those of the authors' code (methods B); the first that fires names the
rejection. One more rule stands before novelty: a text without a single [a-z0-9] token would score 0
against everything and always pass.
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable
from dataclasses import dataclass

MIN_WORDS = 3  # as many or fewer are refused
MAX_WORDS = 150  # more are refused
# Things that a model of text alone cannot see, open or draw.
UNSUITED = (
    "image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps",
    "draw", "plot", "go to",
)  # fmt: skip
_UNSUITED = re.compile(r"\b(?:" + "|".join(UNSUITED) + r")\b", re.IGNORECASE)
_TOKEN = re.compile(r"[a-z0-9]")


@dataclass(frozen=True)
class Verdict:
    """A rejection: the rule, what it measured and what it compared that with."""

    rule: str
    value: float | None = None
    threshold: float | None = None


def empty(instruction: str) -> Verdict | None:
    """Nothing but white space."""
    return Verdict("empty") if not instruction.strip() else None


def too_short(instruction: str) -> Verdict | None:
    """Three words or fewer."""
    words = len(instruction.split())
    return Verdict("too_short", words, MIN_WORDS) if words <= MIN_WORDS else None


def too_long(instruction: str) -> Verdict | None:
    """More than 150 words."""
    words = len(instruction.split())
    return Verdict("too_long", words, MAX_WORDS) if words > MAX_WORDS else None


def unsuited_word(instruction: str) -> Verdict | None:
    """Asks for what text cannot hold: an image, a graph, a file, a map, a drawing."""
    return Verdict("unsuited_word") if _UNSUITED.search(instruction) else None


def write_a_program(instruction: str) -> Verdict | None:
    """Starts with "Write a program": ambiguous between a program and its output."""
    return Verdict("write_a_program") if instruction.startswith("Write a program") else None


def starts_with_punctuation(instruction: str) -> Verdict | None:
    """The first character is punctuation."""
    return (
        Verdict("starts_with_punctuation") if instruction[:1] in set(string.punctuation) else None
    )


def starts_outside_ascii(instruction: str) -> Verdict | None:
    """The first character is not ASCII."""
    return Verdict("starts_outside_ascii") if not instruction[:1].isascii() else None


def no_tokens(instruction: str) -> Verdict | None:
    """No ROUGE token, and so no measurable novelty."""
    return Verdict("no_tokens") if not _TOKEN.search(instruction.lower()) else None


RULES: tuple[Callable[[str], Verdict | None], ...] = (
    empty,
    too_short,
    too_long,
    unsuited_word,
    write_a_program,
    starts_with_punctuation,
    starts_outside_ascii,
    no_tokens,
)


def first_verdict(instruction: str) -> Verdict | None:
    """The first rule that rejects the instruction; None where all pass."""
    for rule in RULES:
        verdict = rule(instruction)
        if verdict is not None:
            return verdict
    return None
