"""Requests to a language model, and their completions.

A request is everything that decides its completion besides the model itself: the rendered prompt,
the sampling parameters and a seed of its own. Its key, taken together with the model's fingerprint,
names the completion: equal keys are answered from the store.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from refine_dagster.hashing import canonical_json, json_hash

Role = Literal["propose", "instance", "rewrite", "review", "respond", "judge"]
FinishReason = Literal["stop", "eos", "length", "scored", "refused"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        max_new_tokens: longest completion, in tokens.
        temperature: divides the logits; 0 takes the likeliest token (greedy).
        top_p: smallest nucleus of the next-token distribution that is sampled from.
        presence_penalty: taken off the logit of every token that the completion already has.
        stop: strings at which a completion ends; the text is cut before the first of them.
        lines: most lines of a list (`list_end`); 0 where the completion is no list.
    """

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    presence_penalty: float = 0.0
    stop: tuple[str, ...] = ()
    lines: int = 0


@dataclass(frozen=True)
class Scoring:
    """Score labels instead of writing: the completion is each label's log-probability.

    A label could follow the prompt and has the blank before it; `label_scores` reads the scores.
    """

    labels: tuple[str, ...]


def sampling_fields(sampling: Sampling | Scoring) -> dict[str, Any]:
    """The fields as they are hashed and stored; `lines` only where it is set."""
    fields = asdict(sampling)
    return {name: value for name, value in fields.items() if name != "lines" or value}


@dataclass(frozen=True)
class Request:
    """A completion to be made. `seed` is the source of all its sampling noise (63 bits)."""

    role: Role
    prompt: str
    sampling: Sampling | Scoring
    seed: int

    def key(self, model_fingerprint: str) -> str:
        """The completion's name: sha256 of model, prompt, sampling and seed, 64 hex digits.

        The role is a label for the ledger and no part of the key.
        """
        parts = [model_fingerprint, self.prompt, sampling_fields(self.sampling), self.seed]
        return json_hash(parts)


@dataclass(frozen=True)
class Server:
    """What a server says about itself, and what was measured of it (`generation/endpoint`).

    Attributes:
        fingerprint: sha256 over what it says about the model's files; 64 hex digits.
        api: `completions` or `chat`.
        repeats: whether it answered the same request twice with the same text; None if not known.
        scores: whether it gives log-probabilities of a text.
        template_tokens: tokens that the chat template adds to a message; None if not known.
    """

    url: str
    software: str
    version: str
    model: str
    fingerprint: str
    api: str
    repeats: bool | None
    scores: bool
    template_tokens: int | None


@dataclass(frozen=True)
class Completion:
    """A model's answer.

    Attributes:
        text: without the stop string or the end-of-sequence token; of a `Scoring` request a JSON
            list of log-probabilities.
        completion_tokens: tokens decoded, the last one included; tokens of all labels.
        reused: whether it came from the completions store.
        server: which server answered, where one did.
        problem: why the server wrote nothing, where `finish_reason` is `refused`.
    """

    text: str
    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    reused: bool = field(default=False, compare=False)
    server: Server | None = field(default=None, compare=False)
    problem: str | None = field(default=None, compare=False)

    @property
    def refused(self) -> bool:
        """Whether a server would not answer the request; the text is empty."""
        return self.finish_reason == "refused"


def label_scores(completion: Completion) -> tuple[float, ...]:
    """Log-probabilities (nats, float64) of the labels of a `Scoring` request, in their order."""
    if completion.finish_reason != "scored":
        raise ValueError(f"a completion that ended by {completion.finish_reason!r} has no labels")
    return tuple(float(score) for score in json.loads(completion.text))


def scored_completion(
    scores: Sequence[float], prompt_tokens: int, label_tokens: Sequence[int]
) -> Completion:
    return Completion(canonical_json(scores), "scored", prompt_tokens, sum(label_tokens))


class Backend(Protocol):
    """Runs requests on a loaded model; `fingerprint` names weights, adapter and backend.

    A backend whose model is another than the one it was opened for says which by an attribute
    `model`, a fingerprint.
    """

    name: str
    fingerprint: str

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batch after batch of (position in `requests`, completion).

        The next batch starts when the caller asks for it, so that each can be kept before.
        """

    def count_tokens(self, text: str) -> int:
        """Length of `text` in the model's tokens, without special tokens around it."""

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest start of `text` of at most `max_tokens` tokens."""


# How engine code asks a model: requests in, completions in the same order. The completions store
# (`generation/completions.py`) is the one that answers; a test may answer from a table.
Complete = Callable[[Sequence[Request]], list[Completion]]
