"""A language model that writes by hashing: equal models write equal texts after equal prompts.

What it writes depends on its fingerprint and on the whole prompt, so an edit of a demonstration
shows in every text that was written after it, as it does with a real model.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from refine_dagster.generation.request import Completion, FinishReason, Request, Sampling, Scoring

VERBS = ("Name", "Count", "Sort", "Describe", "Compare", "Explain", "List", "Reverse", "Find")
THINGS = ("rivers", "letters", "animals", "meals", "seasons", "tools", "songs", "towns", "games")
BATCH = 6
RELATIONS = ("near the sea", "of the poem", "by their size", "in one word", "for a child", "today")


@dataclass
class FakeWriter:
    """A backend (`generation.request.Backend`); a word is a token.

    Some of what it writes is what rules are there for: no candidate, too short, cut off, an answer
    without an output.

    Attributes:
        sends: called with the requests of each batch before it is answered.
    """

    fingerprint: str
    sends: Callable[[Sequence[Request]], None]
    name: str = "fake"

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Answer in batches."""
        for start in range(0, len(requests), BATCH):
            batch = requests[start : start + BATCH]
            self.sends(batch)
            yield [(start + at, self._complete(request)) for at, request in enumerate(batch)]

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def cut(self, text: str, max_tokens: int) -> str:
        return " ".join(text.split()[:max_tokens])

    def _complete(self, request: Request) -> Completion:
        # Not by the request's key: one that left something out would answer as wrongly here.
        asked = (self.fingerprint, request.prompt, request.sampling, request.seed)
        rng = random.Random(_hash(repr(asked)))
        prompt = self.count_tokens(request.prompt)
        if isinstance(request.sampling, Scoring):
            scores = [round(-4 * rng.random(), 3) for _ in request.sampling.labels]
            return Completion(json.dumps(scores), "scored", prompt, len(scores))
        text = self._write(request, request.sampling, rng)
        finish: FinishReason = "length" if rng.random() < 0.05 else "stop"
        return Completion(text, finish, prompt, self.count_tokens(text))

    def _write(self, request: Request, sampling: Sampling, rng: random.Random) -> str:
        if request.role == "propose":
            # The last line is an open number: "Task 4:".
            number = int(request.prompt.rstrip(":").split()[-1])
            lines = [f" {_instruction(rng)}", f"Task {number + 1}: {_instruction(rng)}"]
            return "\n".join(lines if rng.random() < 0.9 else [*lines, "and so on"])
        if request.role == "instance":
            given = "<noinput>" if rng.random() < 0.5 else _words(rng, 3)
            output = f"\nOutput: {_words(rng, 4)}" if rng.random() < 0.85 else ""
            return f" {given}{output}"
        if request.role == "rewrite":
            return f" {_instruction(rng)}"
        return f" {_words(rng, 2)}"


def _instruction(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return "Draw it."
    return f"{rng.choice(VERBS)} {rng.randint(2, 9)} {rng.choice(THINGS)} {rng.choice(RELATIONS)}."


def _words(rng: random.Random, count: int) -> str:
    return " ".join(rng.choices((*VERBS, *THINGS), k=count)).lower()


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
