"""The reviewer: does an evolved instruction differ from its parent?

The authors ask for the words "Equal" or "Not Equal" and read anything else as equal, so that a
reviewer with other manners pays nothing. Here the model writes nothing: the log-probabilities of
two labels after the question decide, whatever it would have said. What wording alone decides is not
asked: identical texts are equal by rule, texts that hardly share a word are different.

A small model prefers one label whatever it reads. The question is therefore also asked of the
parent and itself, where the answer is known, and what counts is by how much the pair raises the
odds of `different` over that (contextual calibration, arXiv 2102.09690). The second question is the
same for all rewrites of a parent, and the store answers it once.

The executor: a language model that applies operations, through the completions store.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from refine_dagster.generation.request import Complete, Request, Sampling, Scoring, label_scores
from refine_dagster.prompts.example import Example
from refine_dagster.prompts.instance import HEADER
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
        complete: the completions store's door.
        different_below: overlap up to which a pair is different without a question.
        threshold: probability of `different` above which a pair is; even odds are equal.
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
        """Requests of role `review` for the undecided, in one batch."""
        quick = [sameness(rewrite, self._different_below) for rewrite in rewrites]
        asked = {
            place: self._requests(rewrites[place])
            for place, said in enumerate(quick)
            if said == "undecided"
        }
        requests = [request for pair in asked.values() for request in pair]
        odds = iter(
            [_log_odds(label_scores(done)) for done in self._complete(requests)] if requests else ()
        )
        reviews = []
        for place, said in enumerate(quick):
            if place not in asked:
                reviews.append(Review(said == "different"))
                continue
            known = [next(odds) for _ in asked[place]]
            probability = _sigmoid(known[0] - (known[1] if self._calibrated else 0.0))
            reviews.append(Review(probability > self._threshold, probability, asked[place]))
        return reviews

    def _requests(self, rewrite: Rewrite) -> tuple[Request, ...]:
        pairs = [(rewrite.parent, rewrite.text)]
        if self._calibrated:
            pairs.append((rewrite.parent, rewrite.parent))
        return tuple(Request("review", review_prompt(*pair), Scoring(LABELS), 0) for pair in pairs)


def review_prompt(first: str, second: str) -> str:
    """The question about two instructions, ending where a label goes on."""
    shown = [
        Example(QUESTION, f"{before} / {after}", answer).render()
        for before, after, answer in _SHOWN
    ]
    asked = f"Instruction: {QUESTION}\nInput: {one_line(first)} / {one_line(second)}\nOutput:"
    return "\n\n".join([HEADER, *shown, asked])


def _log_odds(scores: Sequence[float]) -> float:
    return scores[0] - scores[1]


def _sigmoid(odds: float) -> float:
    if odds >= 0:
        return 1 / (1 + math.exp(-odds))
    return math.exp(odds) / (1 + math.exp(odds))


STOP = ("\n\n", "\nInstruction:", "\nInput:")


class ModelExecutor:
    """Asks a model for rewrites (implements `chain.Executor`).

    Noise is named by seed, text, operation and step, not by episode: a chain that comes to the same
    place again asks the same again, and the store answers.

    Args:
        complete: the completions store's door, or any other source of completions.
        run seed: seeds all sampling noise.
        max_new_tokens, temperature, top_p: how a rewrite is decoded.
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
        """One request a chain, role `rewrite`, in one batch."""
        requests = [
            self.request(chain, operation)
            for chain, operation in zip(chains, operations, strict=True)
        ]
        return [
            Execution(one_line(done.text), done.finish_reason != "length", request)
            for request, done in zip(requests, self._complete(requests), strict=True)
        ]

    def request(self, chain: Chain, operation: Operation) -> Request:
        """What is asked for one operation on one chain."""
        seed = request_seed(self._run_seed, "rewrite", operation.name, chain.seed_id, chain.step)
        return Request("rewrite", operation.prompt(chain.text), self._sampling, seed)
