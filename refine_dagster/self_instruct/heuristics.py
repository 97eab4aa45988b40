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
class Rejection:
    """A rejection: the rule, what it measured and what it compared that with."""

    rule: str
    value: float | None = None
    threshold: float | None = None


def empty(instruction: str) -> Rejection | None:
    """Nothing but white space."""
    return Rejection("empty") if not instruction.strip() else None


def too_short(instruction: str) -> Rejection | None:
    """Three words or fewer."""
    words = len(instruction.split())
    return Rejection("too_short", words, MIN_WORDS) if words <= MIN_WORDS else None


def too_long(instruction: str) -> Rejection | None:
    """More than 150 words."""
    words = len(instruction.split())
    return Rejection("too_long", words, MAX_WORDS) if words > MAX_WORDS else None


def unsuited_word(instruction: str) -> Rejection | None:
    """Asks for what text cannot hold: an image, a graph, a file, a map, a drawing."""
    return Rejection("unsuited_word") if _UNSUITED.search(instruction) else None


def write_a_program(instruction: str) -> Rejection | None:
    """Starts with "Write a program": ambiguous between a program and its output."""
    return Rejection("write_a_program") if instruction.startswith("Write a program") else None


def starts_with_punctuation(instruction: str) -> Rejection | None:
    """The first character is punctuation."""
    return (
        Rejection("starts_with_punctuation") if instruction[:1] in set(string.punctuation) else None
    )


def starts_outside_ascii(instruction: str) -> Rejection | None:
    """The first character is not ASCII."""
    return Rejection("starts_outside_ascii") if not instruction[:1].isascii() else None


def no_tokens(instruction: str) -> Rejection | None:
    """No ROUGE token, and so no measurable novelty."""
    return Rejection("no_tokens") if not _TOKEN.search(instruction.lower()) else None


RULES: tuple[Callable[[str], Rejection | None], ...] = (
    empty,
    too_short,
    too_long,
    unsuited_word,
    write_a_program,
    starts_with_punctuation,
    starts_outside_ascii,
    no_tokens,
)


def first_rejection(instruction: str) -> Rejection | None:
    """The first rule that rejects the instruction; None where all pass."""
    for rule in RULES:
        rejection = rule(instruction)
        if rejection is not None:
            return rejection
    return None


SHORT_ANSWER_WORDS = 80


_WORD = re.compile(r"[a-z0-9']+")


# How a model says that it will not; at the start of a rewrite, anywhere in a short answer.
REFUSALS = (
    "sorry",
    "i cannot",
    "i can't",
    "i am unable",
    "i'm unable",
    "as an ai",
    "as a language model",
    "it is not possible to",
)


# fmt: off
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "had", "has", "have",
    "he", "her", "his", "i", "if", "in", "is", "it", "its", "me", "my", "no", "not", "of", "on",
    "or", "our", "she", "so", "that", "the", "their", "them", "then", "there", "they", "this",
    "to", "was", "we", "were", "what", "which", "who", "will", "with", "you", "your",
))


# fmt: on


# "No" is a whole answer to a question.
_HOLLOW = STOP_WORDS - {"no", "not"}


def answer_rejection(answer: str, finished: bool = True) -> Rejection | None:
    """The rule that eliminates an instruction by its answer; None where all pass.

    `unfinished_answer`; `hollow_answer`: nothing but stop words and punctuation; `refused_answer`:
    declines, in fewer than 80 words.
    """
    if not finished:
        return Rejection("unfinished_answer")
    words = _WORD.findall(answer.lower())
    if all(word in _HOLLOW for word in words):
        return Rejection("hollow_answer")
    refused = any(phrase in answer.lower() for phrase in REFUSALS)
    if refused and len(words) < SHORT_ANSWER_WORDS:
        return Rejection("refused_answer", len(words), SHORT_ANSWER_WORDS)
    return None
