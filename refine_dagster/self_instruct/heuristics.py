"""Rules that reject an instruction by its text, or by its answer.

The rules for instructions and their order are those of Self-Instruct's code (docs/methods.md,
section 3.2), with one more: a text without tokens would score 0 against everything and always be
novel. In a language other than English, words are those of its script (`word_count`), and most
letters must be of it, where the English rule looks at the first character. The rules for answers
are WizardLM's (arXiv 2304.12244, section 3).
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from functools import cache

from refine_dagster.language import ENGLISH, Language
from refine_dagster.novelty.tokenizers import UNSPACED, unicode_tokens, word_count

MIN_WORDS = 3  # as many or fewer are rejected
SHORT_ANSWER_WORDS = 80
# How a model refuses; at the start of a rewrite, anywhere in a short answer.
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
STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "from", "had", "has", "have",
    "he", "her", "his", "i", "if", "in", "is", "it", "its", "me", "my", "no", "not", "of", "on",
    "or", "our", "she", "so", "that", "the", "their", "them", "then", "there", "they", "this",
    "to", "was", "we", "were", "what", "which", "who", "will", "with", "you", "your",
))  # fmt: skip
# "No" is a whole answer to a question.
_HOLLOW = STOP_WORDS - {"no", "not"}
_TOKEN = re.compile(r"[a-z0-9]")
_WORD = re.compile(r"(?:[^\W_]|')+")


@dataclass(frozen=True)
class Rejection:
    """The rule that rejected something, what it measured, and its threshold."""

    rule: str
    value: float | None = None
    threshold: float | None = None


@cache
def _unsuited(language: Language) -> re.Pattern[str]:
    """What a language model cannot see, open or draw."""
    words = [word if UNSPACED.search(word) else rf"\b{word}\b" for word in language.unsuited]
    return re.compile("|".join(words) or "(?!)", re.IGNORECASE)


def first_rejection(instruction: str, language: Language = ENGLISH) -> Rejection | None:
    """The first rule that rejects the instruction; None where all pass."""
    english = language.code == ENGLISH.code
    words = len(instruction.split()) if english else word_count(instruction)
    if words <= MIN_WORDS:
        return Rejection("too_short", words, MIN_WORDS) if words else Rejection("empty")
    if words > language.max_words:
        return Rejection("too_long", words, language.max_words)
    tokens = _TOKEN.search(instruction.lower()) if english else unicode_tokens(instruction)
    rules = {
        "unsuited_word": _unsuited(language).search(instruction),
        # Ambiguous between a program and its output.
        "write_a_program": instruction.startswith("Write a program"),
        "starts_with_punctuation": instruction[:1] in set(string.punctuation),
        "starts_outside_ascii": english and not instruction[:1].isascii(),
        "other_script": not english and not language.is_written_in(instruction),
        "no_tokens": not tokens,
    }
    return next((Rejection(rule) for rule, fires in rules.items() if fires), None)


def answer_rejection(answer: str, finished: bool = True) -> Rejection | None:
    """The first rule that rejects an instruction by its answer; None where all pass.

    `unfinished_answer`; `hollow_answer`: only stop words and punctuation; `refused_answer`: a
    refusal in fewer than 80 words.
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
