"""Rules that eliminate a failed rewrite without asking a model, each with a name, cheapest first.

WizardLM (arXiv 2304.12244, section 3) drops an evolution that gains no information over its parent
(left to the reviewer here), that the model refuses, or that copies words of the evolving prompt.
One rule is this project's own: a small model often writes something else altogether, which no
reviewer would call equal (`lost_parent`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from refine_dagster.novelty.tokenizers import unicode_tokens, word_count
from refine_dagster.self_instruct.heuristics import REFUSALS, STOP_WORDS, Rejection
from refine_dagster.teams_rl.operations import Operation

MIN_WORDS = 3
# Least share of a parent's words, stop words left out, that an evolution in depth keeps.
LEAST_KEPT = 0.3


@dataclass(frozen=True)
class Rewrite:
    """An executor's rewrite of `parent`; not `finished` where the model was stopped on length.

    `refused` is True where no server would write it.
    """

    parent: str
    text: str
    operation: Operation
    finished: bool = True
    refused: bool = False


def first_rejection(rewrite: Rewrite, max_words: int) -> Rejection | None:
    """The first rule that eliminates a rewrite; None where all pass.

    - `refused`: no server would answer the request;
    - `unfinished`: the model was stopped before the end of its text;
    - `empty`: no letter and no digit;
    - `marker_words`: words of the executor's prompt that the parent did not have;
    - `refusal`: the executor refuses instead of writing;
    - `too_short`, `too_long`: fewer than three words, more than `max_words`;
    - `identical`: the parent's words in the same order, without regard to case and punctuation;
    - `lost_parent`: an operation in depth that keeps too few of the parent's words: another task.
    """
    text, parent = rewrite.text.lower(), rewrite.parent.lower()
    words = word_count(rewrite.text)
    if rewrite.refused:
        return Rejection("refused")
    if not rewrite.finished:
        return Rejection("unfinished")
    if not unicode_tokens(rewrite.text):
        return Rejection("empty")
    if any(marker in text and marker not in parent for marker in rewrite.operation.markers):
        return Rejection("marker_words")
    if text.strip().startswith(REFUSALS):
        return Rejection("refusal")
    if words < MIN_WORDS:
        return Rejection("too_short", words, MIN_WORDS)
    if words > max_words:
        return Rejection("too_long", words, max_words)
    if identical(rewrite):
        return Rejection("identical")
    if rewrite.operation.in_depth and (kept := _kept_share(rewrite)) < LEAST_KEPT:
        return Rejection("lost_parent", kept, LEAST_KEPT)
    return None


def identical(rewrite: Rewrite) -> bool:
    return unicode_tokens(rewrite.text) == unicode_tokens(rewrite.parent)


def _kept_share(rewrite: Rewrite) -> float:
    """Share of the parent's words in the text, stop words left out; 1 where it has no others."""
    ours = set(unicode_tokens(rewrite.parent)) - STOP_WORDS
    return len(ours & set(unicode_tokens(rewrite.text))) / len(ours) if ours else 1.0


def overlap(first: str, second: str) -> float:
    """Share of common words among all words of two texts (Jaccard), stop words left out, 0 to 1."""
    ours, theirs = (set(unicode_tokens(text)) - STOP_WORDS for text in (first, second))
    union = ours | theirs
    return len(ours & theirs) / len(union) if union else 1.0


Sameness = Literal["equal", "different", "undecided"]


def sameness(rewrite: Rewrite, different_below: float) -> Sameness:
    """Compare parent and rewrite by wording; an overlap up to the limit is `different`."""
    if identical(rewrite):
        return "equal"
    similarity = overlap(rewrite.parent, rewrite.text)
    return "different" if similarity <= different_below else "undecided"
