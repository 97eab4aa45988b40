"""Rules that eliminate a failed rewrite without asking a model, each with a name, cheapest first.

WizardLM (arXiv 2304.12244, section 3) drops an evolution that gains no information over its parent,
that the model refuses or cannot answer, whose answer is nothing but stop words and punctuation, or
that copies words of the evolving prompt. The first is left to the reviewer, after these rules. One
rule is this project's own: a small model often writes something else altogether, which no reviewer
would call equal (`lost_parent`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from refine_dagster.novelty.rouge import rouge_tokens
from refine_dagster.self_instruct.heuristics import REFUSALS, STOP_WORDS, Rejection
from refine_dagster.teams_rl.operations import Operation

MIN_WORDS = 3
# Least share of a parent's words, stop words left out, that an evolution in depth keeps.
LEAST_KEPT = 0.3


@dataclass(frozen=True)
class Rewrite:
    """An executor's rewrite of an instruction.

    Attributes:
        parent, text: before and after.
        finished: False where the model was stopped on length.
    """

    parent: str
    text: str
    operation: Operation
    finished: bool = True


def unfinished(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """The model was stopped before the end of its text."""
    return None if rewrite.finished else Rejection("unfinished")


def empty(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """No letter and no digit."""
    return None if rouge_tokens(rewrite.text) else Rejection("empty")


def marker_words(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """Words of the executor's prompt that its parent did not have."""
    text, parent = rewrite.text.lower(), rewrite.parent.lower()
    leaked = any(marker in text and marker not in parent for marker in rewrite.operation.markers)
    return Rejection("marker_words") if leaked else None


def refusal(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """The executor declines instead of writing."""
    return Rejection("refusal") if rewrite.text.strip().lower().startswith(REFUSALS) else None


def too_short(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """Fewer than three words."""
    words = len(rewrite.text.split())
    return Rejection("too_short", words, MIN_WORDS) if words < MIN_WORDS else None


def too_long(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """More words than are allowed."""
    words = len(rewrite.text.split())
    return Rejection("too_long", words, max_words) if words > max_words else None


def identical(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """The parent's words in the parent's order; case, punctuation and spaces do not count."""
    same = rouge_tokens(rewrite.text) == rouge_tokens(rewrite.parent)
    return Rejection("identical") if same else None


def lost_parent(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """An operation in depth that keeps too few of the parent's words: another task."""
    ours = set(rouge_tokens(rewrite.parent)) - STOP_WORDS
    if not rewrite.operation.in_depth or not ours:
        return None
    kept = len(ours & set(rouge_tokens(rewrite.text))) / len(ours)
    return Rejection("lost_parent", kept, LEAST_KEPT) if kept < LEAST_KEPT else None


RULES: tuple[Callable[[Rewrite, int], Rejection | None], ...] = (
    unfinished,
    empty,
    marker_words,
    refusal,
    too_short,
    too_long,
    identical,
    lost_parent,
)


def first_rejection(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """The first rule that eliminates a rewrite; None where all pass."""
    return next(filter(None, (rule(rewrite, max_words) for rule in RULES)), None)


def overlap(first: str, second: str) -> float:
    """Share of common words among all words of two texts (Jaccard), stop words left out, 0 to 1."""
    ours, theirs = (set(rouge_tokens(text)) - STOP_WORDS for text in (first, second))
    union = ours | theirs
    return len(ours & theirs) / len(union) if union else 1.0


Sameness = Literal["equal", "different", "undecided"]


def sameness(rewrite: Rewrite, different_below: float) -> Sameness:
    """Compare parent and rewrite by wording; an overlap up to the limit is `different`."""
    if identical(rewrite, 0) is not None:
        return "equal"
    similarity = overlap(rewrite.parent, rewrite.text)
    return "different" if similarity <= different_below else "undecided"
