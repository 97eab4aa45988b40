"""Executor and reviewer on a language model, through the completions store.

The reviewer writes nothing (docs/methods.md, section 5.2): the log-probabilities of two labels
decide, compared with the same question about the parent and itself, where the answer is known. This
second question is the same for all rewrites of a parent, so the store answers it once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_dagster.generation.request import (
    Complete,
    Completion,
    Request,
    Sampling,
    Scoring,
    label_scores,
)
from refine_dagster.prompts.example import HEADER, Example
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.chain import Chain, Execution, Review
from refine_dagster.teams_rl.elimination import Rewrite, sameness
from refine_dagster.teams_rl.operations import Operation, one_line

QUESTION = "Do the two instructions ask for different things? Answer yes or no."
LABELS = (" yes", " no")
_SHOWN = (
    ("Name a fruit.", "Write a riddle about a lamp.", "yes"),
    ("Describe a boat.", "Describe the boat.", "no"),
    ("Add the numbers.", "Add the numbers, then multiply the result by 2.", "yes"),
    ("Give me a tip about bread.", "Please give me a bread tip.", "no"),
)


class ModelReviewer:
    """Rules first, then the log-probabilities of two labels (implements `chain.Reviewer`).

    Args:
        different_below: overlap up to which a pair is different without a question.
        threshold: probability of `different` above which a pair is different.
        calibrated: measure the odds against those of the parent and itself.
    """

    def __init__(
        self,
        complete: Complete,
        *,
        different_below: float = 0.3,
        threshold: float = 0.5,
        calibrated: bool = True,
    ) -> None:
        self._complete = complete
        self._different_below = different_below
        self._threshold = threshold
        self._calibrated = calibrated

    def review(self, rewrites: Sequence[Rewrite]) -> list[Review]:
        by_wording = [sameness(rewrite, self._different_below) for rewrite in rewrites]
        asked = {
            index: self._requests(rewrites[index])
            for index, verdict in enumerate(by_wording)
            if verdict == "undecided"
        }
        requests = [request for pair in asked.values() for request in pair]
        odds = iter(map(_odds, self._complete(requests) if requests else ()))
        reviews = []
        for index, verdict in enumerate(by_wording):
            if index not in asked:
                reviews.append(Review(verdict == "different"))
                continue
            given = [next(odds) for _ in asked[index]]
            pair_odds = [value for value in given if value is not None]
            if len(pair_odds) < len(given):
                reviews.append(Review(False, None, asked[index], refused=True))
                continue
            probability = _sigmoid(pair_odds[0] - (pair_odds[1] if self._calibrated else 0.0))
            reviews.append(Review(probability > self._threshold, probability, asked[index]))
        return reviews

    def _requests(self, rewrite: Rewrite) -> tuple[Request, ...]:
        pairs = [(rewrite.parent, rewrite.text)]
        if self._calibrated:
            pairs.append((rewrite.parent, rewrite.parent))
        return tuple(Request("review", review_prompt(*pair), Scoring(LABELS), 0) for pair in pairs)


def review_prompt(first: str, second: str) -> str:
    """The question about two instructions; a label continues it."""
    shown = [
        Example(QUESTION, f"{before} / {after}", answer).render()
        for before, after, answer in _SHOWN
    ]
    asked = f"Instruction: {QUESTION}\nInput: {one_line(first)} / {one_line(second)}\nOutput:"
    return "\n\n".join([HEADER, *shown, asked])


def _odds(done: Completion) -> float | None:
    """Log-odds of the first label against the second; None where no server would answer."""
    if done.refused:
        return None
    yes, no = label_scores(done)
    return yes - no


def _sigmoid(odds: float) -> float:
    if odds >= 0:
        return 1 / (1 + math.exp(-odds))
    return math.exp(odds) / (1 + math.exp(odds))


STOP = ("\n\n", "\nInstruction:", "\nInput:")


class ModelExecutor:
    """Asks a model for rewrites (implements `chain.Executor`).

    The random seed of a request depends on seed, text, operation and step, not on the episode: a
    chain that reaches the same text again asks the same again, and the store answers.
    """

    def __init__(
        self,
        complete: Complete,
        run_seed: str,
        *,
        max_new_tokens: int = 64,
        temperature: float = 0.7,
        top_p: float = 0.95,
    ) -> None:
        self._complete = complete
        self._run_seed = run_seed
        self._sampling = Sampling(max_new_tokens, temperature, top_p, stop=STOP)

    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        requests = [
            self.request(chain, operation)
            for chain, operation in zip(chains, operations, strict=True)
        ]
        return [
            Execution(one_line(done.text), done.finish_reason != "length", request, done.refused)
            for request, done in zip(requests, self._complete(requests), strict=True)
        ]

    def request(self, chain: Chain, operation: Operation) -> Request:
        seed = request_seed(self._run_seed, "rewrite", operation.name, chain.seed_id, chain.step)
        return Request("rewrite", operation.prompt(chain.text), self._sampling, seed)
