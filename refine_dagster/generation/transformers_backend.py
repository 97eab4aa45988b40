"""Decoding with plain transformers: batched by length, with noise that belongs to each request.

`model.generate` draws one stream of noise for a whole batch, so a completion there depends on its
neighbours. Here a request owns its noise: one uniform number a step, from its own seed, turned into
a token by the inverse of the row's cumulative distribution.

In deterministic mode a completion is a function of the request alone, bit for bit. Rounding depends
on the shapes of matrix products, so these are made a function of the request too: the prompt is
padded on the left to a length that depends only on its own (`label_scoring.BUCKET`), and a pass
always has `ROWS` rows of one such length, dummies among them where requests run out. The batch size
then bounds how many requests are committed together, after one pass or several. The price, measured
on the offline model, is half to two thirds more time than free batches of the same size take.

The next tokens from a model's logits, and the noise that decides each: a request's own.

What all prompts of a batch begin with is read once.

Prompts of one role begin with the same words, the instruction of the task and often its examples.
Their keys and values are computed in a batch of one and repeated for the others; what follows is
padded between the shared start and a prompt's own rest. The values are those of each prompt read
alone, up to the rounding of matrix products of another shape: so this is for batches whose
rounding depends on the neighbours anyway, and not for deterministic mode.

The log-probability of a label after a prompt, for questions with a closed set of answers.

A label's log-probability is the sum over its own tokens, each given the prompt and those before.
Prompt and label are turned into tokens apart, so a label is the same tokens after any prompt. As in
decoding (`transformers_backend`), deterministic mode gives every pass a shape that the row alone
decides: sequences padded on the left to a multiple of `BUCKET`, `ROWS` rows, labels of one length.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, takewhile
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.model_text import ModelText, backend_fingerprint
from refine_dagster.generation.request import (
    Completion,
    FinishReason,
    Request,
    Sampling,
    Scoring,
)
from refine_dagster.hashing import canonical_json
from refine_dagster.models.device import Device, free_memory
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model
from refine_dagster.models.memory import (
    announce,
    generation_budget,
    in_batches_that_fit,
    model_size,
    requests_that_fit,
)


class Noise:
    """Uniform numbers in [0, 1) of one request: Philox counters keyed by its seed, 64 at a time."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.Philox(key=seed)
        self._block: list[float] = []

    def draw(self) -> float:
        """The next number."""
        if not self._block:
            raw = self._source.random_raw(64)
            # The upper 53 bits, a double's worth; last first, since `pop` takes from the end.
            self._block = ((raw >> np.uint64(11)) * 2.0**-53)[::-1].tolist()
        return self._block.pop()


def choose_tokens(
    logits: NDArray[np.float32],
    written: Sequence[Collection[int]],
    samplings: Sequence[Sampling],
    uniforms: Sequence[float],
) -> list[int]:
    """The token at `uniform` of each row's cumulative next-token distribution, in float64.

    A row's token depends on that row alone: the same bits come out in any company.

    Args:
        logits: shape (rows, vocabulary).
        written: tokens of each row's completion so far; each is penalised once.
        samplings: temperature 0 takes the likeliest token, the lowest id where several are.
        uniforms: numbers in [0, 1).

    Returns:
        Each row's token id. Nucleus: likeliest first, equal ones by id, the shortest start of that
        list whose probabilities reach `top_p`.
    """
    scores = logits.astype(np.float64)
    for row, (tokens, sampling) in enumerate(zip(written, samplings, strict=True)):
        if sampling.presence_penalty and tokens:
            scores[row, list(set(tokens))] -= sampling.presence_penalty
    temperatures = [one.temperature if one.temperature > 0 else 1.0 for one in samplings]
    weights = scores - scores.max(axis=1, keepdims=True)
    weights /= np.array(temperatures)[:, np.newaxis]
    np.exp(weights, out=weights)
    return [
        _token_at(weights[row], sampling.top_p, uniform)
        if sampling.temperature > 0
        else int(scores[row].argmax())
        for row, (sampling, uniform) in enumerate(zip(samplings, uniforms, strict=True))
    ]


def _token_at(weights: NDArray[np.float64], top_p: float, uniform: float) -> int:
    """The token at `uniform` of a row of unnormalised probabilities (`choose_tokens`)."""
    if top_p >= 1:
        cumulative = weights.cumsum()
        place = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
        # Rounding may put the product on the last sum itself.
        return min(place, weights.size - 1)
    total = weights.sum()
    # Tokens under this share of the mass together weigh less than what the nucleus leaves out.
    ids = (weights >= total * (1 - top_p) / weights.size).nonzero()[0]
    found = weights[ids]
    order = (-found).argsort(kind="stable")
    cumulative = found[order].cumsum()
    kept = int(cumulative.searchsorted(total * top_p)) + 1
    cumulative = cumulative[:kept]
    place = int(cumulative.searchsorted(uniform * cumulative[-1], side="right"))
    return int(ids[order[min(place, cumulative.size - 1)]])


# Tokens from which on a second call of the model is worth it.
SHORTEST = 16


def shared_start(prompts: Sequence[list[int]]) -> int:
    """How many tokens all prompts begin with, the last token of each left out.

    0 where there are fewer than two prompts or fewer than `SHORTEST` tokens.

    >>> shared_start([list(range(20)) + [7], list(range(20)) + [8, 9]])
    20
    """
    if len(prompts) < 2:
        return 0
    first, last = min(prompts), max(prompts)
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    found = min(sum(1 for _ in alike), min(map(len, prompts)) - 1)
    return found if found >= SHORTEST else 0


def read_once(model: Any, start: Sequence[int], rows: int) -> Any | None:
    """The cache of a start of all rows, computed once; None where the model's cannot be repeated.

    Args:
        start: token ids.
        rows: how many rows begin with them.
    """
    import torch
    from transformers.cache_utils import DynamicLayer

    ids = torch.tensor([list(start)], device=model.device)
    with torch.inference_mode():
        cache = model(input_ids=ids, use_cache=True, logits_to_keep=1).past_key_values
    # A sliding window counts the padding behind the start; a state space has no keys to repeat.
    if any(type(layer) is not DynamicLayer for layer in getattr(cache, "layers", [None])):
        return None
    cache.batch_repeat_interleave(rows)
    return cache


BUCKET = 64
ROWS = 16


@dataclass(frozen=True)
class LabelRow:
    """One label of one request.

    Attributes:
        position: of the request.
        place: of the label among the request's.
        prompt, label: token ids; neither is empty.
    """

    position: int
    place: int
    prompt: list[int]
    label: list[int]

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.label]


class LabelScorer:
    """Scores labels on a loaded model.

    Args:
        loaded: the model, in eval mode on its device.
        rows: rows of a pass, at most; exactly that many where `deterministic`.
        deterministic: make a score a function of its row alone, bit for bit.
    """

    def __init__(self, loaded: LoadedModel, rows: int, deterministic: bool) -> None:
        self._loaded = loaded
        self._rows = rows
        self._deterministic = deterministic

    def batches(self, labels: Sequence[LabelRow]) -> Iterator[list[LabelRow]]:
        """Rows of one label length and, where deterministic, one padded length; short first."""

        def shape(row: LabelRow) -> tuple[int, int]:
            length = len(row.prompt) + len(row.label)
            return len(row.label), padded_length(length) if self._deterministic else 0

        ordered = sorted(
            labels, key=lambda row: (shape(row), len(row.prompt), row.position, row.place)
        )
        for _, group in groupby(ordered, key=shape):
            rows = list(group)
            for start in range(0, len(rows), self._rows):
                yield rows[start : start + self._rows]

    def score(self, batch: Sequence[LabelRow]) -> list[float]:
        """Log-probabilities (nats, float64 sums of float32 logits' log-softmax), in order."""
        import torch

        longest = max(len(row.tokens) for row in batch)
        width, height = longest, len(batch)
        if self._deterministic:
            width, height = padded_length(longest), self._rows
        label = len(batch[0].label)
        ids = np.full((height, width), self._loaded.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.zeros((height, width), dtype=np.int64)
        # A dummy row is one padding token that may see itself.
        mask[len(batch) :, width - 1] = 1
        for number, row in enumerate(batch):
            ids[number, width - len(row.tokens) :] = row.tokens
            mask[number, width - len(row.tokens) :] = 1
        device = self._loaded.device.name
        positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
        with torch.inference_mode():
            answer = self._loaded.model(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                position_ids=torch.from_numpy(positions).to(device),
                use_cache=False,
                logits_to_keep=label + 1,
            )
            logits = answer.logits[:, -label - 1 : -1].float().cpu().numpy().astype(np.float64)
        scores = []
        for number, row in enumerate(batch):
            total = 0.0
            for place, token in enumerate(row.label):
                values = logits[number, place]
                top = float(values.max())
                total += float(values[token]) - top - float(np.log(np.exp(values - top).sum()))
            scores.append(total)
        return scores


def padded_length(tokens: int) -> int:
    """A length rounded up to a multiple of `BUCKET`."""
    return -(-tokens // BUCKET) * BUCKET


T = TypeVar("T")
R = TypeVar("R")

LOWER = (
    "lower the stage's max_new_tokens or max_demonstration_tokens, or set device.quantization to "
    "`nf4`; with device.deterministic a batch cannot be made smaller"
)


class TransformersBackend:
    """Runs requests on a loaded model (implements `request.Backend`).

    Where a card's memory runs out, a batch is decoded again in halves, each request from the start
    of its own noise, and the size that fits is kept for the session.

    Args:
        loaded: the model, in eval mode on its device.
        batch_size: requests decoded together and yielded together; None: as many of the longest as
            memory has room for. Deterministic mode decodes at most `ROWS` together.
    """

    name = "transformers"

    def __init__(self, loaded: LoadedModel, batch_size: int | None) -> None:
        self.fingerprint = backend_fingerprint("transformers", loaded.ref, loaded.device)
        self._loaded = loaded
        self._deterministic = loaded.device.deterministic
        self._batch_size = batch_size
        self._announced = False
        self._text = ModelText(
            loaded.tokenizer,
            loaded.model.config,
            getattr(loaded.model, "generation_config", None),
        )

    def generate(self, requests: Sequence[Request]) -> Iterator[list[tuple[int, Completion]]]:
        """Yield batches of (position in `requests`, completion), short prompts first, labels last.

        Raises:
            PromptTooLongError: before anything is decoded, for a prompt that does not fit.
            MemoryFullError: memory runs out with a single request.
        """
        rows: list[_Row] = []
        labels: list[LabelRow] = []
        for position, request in enumerate(requests):
            prompt = self._text.prompt(request.prompt)
            if isinstance(request.sampling, Scoring):
                for place, label in enumerate(request.sampling.labels):
                    labels.append(LabelRow(position, place, prompt, self._text.label(label)))
            else:
                rows.append(_Row(position, request, request.sampling, prompt))
        self._check_lengths(rows)
        self._check_label_lengths(labels, requests)
        longest = max((len(row.prompt) for row in rows), default=0)
        new = max((row.sampling.max_new_tokens for row in rows), default=0)
        for batch in self._batches(rows, self._most(longest, new) if rows else 1):
            for part, _ in self._fitting("decoding", batch, self._decode):
                yield [(row.position, self._completion(row)) for row in part]
        yield from self._scored(labels)

    def _most(self, prompt: int, new: int) -> int:
        """Requests of that length in a batch; the first answer is told, with its budget."""
        most, device = self._batch_size, self._loaded.device
        if most is None:
            most = requests_that_fit(model_size(self._loaded.ref), device, prompt, new)
            most = self._together(most)
        if not self._announced and (device.name != "cpu" or self._batch_size is None):
            self._announced = True
            size = model_size(self._loaded.ref)
            together = self._together(most)
            budget = generation_budget(size, device, together, prompt, new, "generation")
            # The weights are there already.
            announce(budget, device, LOWER, free_memory(device) + budget.lines[0].bytes)
        return most

    def _together(self, most: int) -> int:
        """Requests of a batch that are decoded at once."""
        return min(most, ROWS) if self._deterministic else most

    def _fitting(
        self, work: str, batch: Sequence[T], run: Callable[[Sequence[T]], R]
    ) -> Iterator[tuple[Sequence[T], R]]:
        """Parts of a batch for which memory is enough; deterministic passes always have `ROWS`."""
        smallest = len(batch) if self._deterministic else 1
        return in_batches_that_fit(self._loaded.device, work, batch, run, LOWER, smallest)

    def _scored(self, labels: Sequence[LabelRow]) -> Iterator[list[tuple[int, Completion]]]:
        """Batches of requests whose labels have all been scored."""
        if not labels:
            return
        longest = max(len(row.tokens) for row in labels)
        rows = ROWS if self._deterministic else self._most(longest, 0)
        scorer = LabelScorer(self._loaded, rows, self._deterministic)
        waiting: dict[int, dict[int, tuple[float, LabelRow]]] = {}
        wanted: dict[int, int] = {}
        for row in labels:
            wanted[row.position] = wanted.get(row.position, 0) + 1
        for batch in scorer.batches(labels):
            done = []
            for part, scores in self._fitting("scoring", batch, scorer.score):
                for row, score in zip(part, scores, strict=True):
                    found = waiting.setdefault(row.position, {})
                    found[row.place] = (score, row)
                    if len(found) == wanted[row.position]:
                        done.append((row.position, _scored_completion(waiting.pop(row.position))))
            if done:
                yield done

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens, without the marks some models put around a text."""
        return self._text.count_tokens(text)

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest start of `text` of at most `max_tokens` tokens."""
        return self._text.cut(text, max_tokens)

    def _check_lengths(self, rows: Sequence[_Row]) -> None:
        if not rows:
            return
        row = max(rows, key=lambda row: len(row.prompt) + row.sampling.max_new_tokens)
        self._text.check_length(row.request.role, len(row.prompt), row.sampling.max_new_tokens)

    def _check_label_lengths(self, labels: Sequence[LabelRow], requests: Sequence[Request]) -> None:
        if not labels:
            return
        row = max(labels, key=lambda row: len(row.prompt) + len(row.label))
        self._text.check_length(requests[row.position].role, len(row.prompt), len(row.label))

    def _batches(self, rows: Sequence[_Row], most: int) -> Iterator[list[_Row]]:
        """Rows of like length, at most `most`, passes whole."""
        ordered = sorted(rows, key=lambda row: (len(row.prompt), row.position))
        batch: list[_Row] = []
        for part in self._passes(ordered, most):
            if batch and len(batch) + len(part) > most:
                yield batch
                batch = []
            batch += part
        if batch:
            yield batch

    def _passes(self, ordered: Sequence[_Row], most: int) -> Iterator[list[_Row]]:
        """Rows decoded together; in deterministic mode at most `ROWS` of one bucket."""
        most = self._together(most)
        for _, group in groupby(
            ordered, key=lambda row: _bucket(row.prompt) if self._deterministic else 0
        ):
            rows = list(group)
            for start in range(0, len(rows), most):
                yield rows[start : start + most]

    def _decode(self, batch: Sequence[_Row]) -> None:
        """Write every row of a batch to its end, from its beginning."""
        for rows in self._passes(batch, len(batch)):
            self._decode_together(rows)

    def _decode_together(self, batch: Sequence[_Row]) -> None:
        import torch

        for row in batch:
            row.begin()
        width = max(len(row.prompt) for row in batch)
        height = len(batch)
        if self._deterministic:
            width, height = _bucket(batch[0].prompt), ROWS
        device = self._loaded.device.name
        steps = max(row.sampling.max_new_tokens for row in batch)
        ids = np.full((height, width), self._loaded.tokenizer.pad_token_id, dtype=np.int64)
        mask = np.ones((height, width + steps), dtype=np.int64)
        mask[:, :width] = 0
        # A dummy row is one padding token that may see itself.
        mask[len(batch) :, width - 1] = 1
        shared = 0 if self._deterministic else shared_start([row.prompt for row in batch])
        start = batch[0].prompt[:shared]
        cache = read_once(self._loaded.model, start, height) if shared else None
        shared = 0 if cache is None else shared
        for number, row in enumerate(batch):
            rest = width - len(row.prompt) + shared
            ids[number, :shared] = row.prompt[:shared]
            ids[number, rest:] = row.prompt[shared:]
            mask[number, :shared] = 1
            mask[number, rest:width] = 1
        attention = torch.from_numpy(mask).to(device)
        positions = torch.from_numpy(np.maximum(mask.cumsum(axis=1) - 1, 0)).to(device)
        inputs, seen = torch.from_numpy(ids[:, shared:]).to(device), shared
        with torch.inference_mode():
            for _ in range(steps):
                end = seen + inputs.shape[1]
                answer = self._loaded.model(
                    input_ids=inputs,
                    attention_mask=attention[:, :end],
                    position_ids=positions[:, seen:end],
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                )
                cache, seen = answer.past_key_values, end
                logits = answer.logits[:, -1].float().cpu().numpy()
                chosen = np.zeros((height, 1), dtype=np.int64)
                at_work = [number for number, row in enumerate(batch) if row.finish is None]
                for number, token in zip(at_work, _choose(batch, at_work, logits), strict=True):
                    row = batch[number]
                    chosen[number, 0] = token
                    row.written.append(token)
                    row.finish = self._finish(row)
                if all(row.finish for row in batch):
                    return
                inputs = torch.from_numpy(chosen).to(device)

    def _finish(self, row: _Row) -> FinishReason | None:
        """Why the row ends with the token it has just written, if it does."""
        sampling = row.sampling
        if row.written[-1] in self._text.eos:
            return "eos"
        if sampling.stop:
            # A stop string of n bytes spans at most n tokens; what is far behind was looked at.
            reach = max(len(stop.encode()) for stop in sampling.stop) + 1
            tail = self._text.decode(row.written[-reach:])
            if any(stop in tail for stop in sampling.stop):
                return "stop"
        return "length" if len(row.written) >= sampling.max_new_tokens else None

    def _completion(self, row: _Row) -> Completion:
        assert row.finish is not None
        return Completion(
            text=self._text.completion(row.prompt, row.written, row.sampling, row.finish),
            finish_reason=row.finish,
            prompt_tokens=len(row.prompt),
            completion_tokens=len(row.written),
        )


@contextmanager
def transformers_backend(
    ref: ModelRef, device: Device, config: GeneratorConfig
) -> Iterator[TransformersBackend]:
    """Load a model with its adapters and run requests on it; its memory is free at the end.

    Raises:
        ModelError: no model can be built from the files.
    """
    with loaded_model(ref, device) as loaded:
        yield TransformersBackend(loaded, config.batch_size)


@dataclass
class _Row:
    """A request on its way through the decoder."""

    position: int
    request: Request
    sampling: Sampling
    prompt: list[int]
    written: list[int] = field(default_factory=list)
    finish: FinishReason | None = None

    def begin(self) -> None:
        """Forget what was written, and go back to the first of the noise."""
        self.written.clear()
        self.finish = None
        self._noise = Noise(self.request.seed)

    def uniform(self) -> float:
        """The noise of the next token."""
        return self._noise.draw() if self.sampling.temperature > 0 else 0.0


def _choose(batch: Sequence[_Row], at_work: list[int], logits: NDArray[np.float32]) -> list[int]:
    """The next token of the rows still at work, from the logits of all rows."""
    rows = [batch[number] for number in at_work]
    return choose_tokens(
        logits[at_work],
        [row.written for row in rows],
        [row.sampling for row in rows],
        [row.uniform() for row in rows],
    )


def _bucket(prompt: Sequence[int]) -> int:
    """The padded length of a prompt: its own, rounded up to a multiple of `BUCKET`."""
    return padded_length(len(prompt))


def _scored_completion(found: dict[int, tuple[float, LabelRow]]) -> Completion:
    """The completion of a request by its labels' places."""
    scores = [found[place][0] for place in sorted(found)]
    rows = [row for _, row in found.values()]
    return Completion(
        text=canonical_json(scores),
        finish_reason="scored",
        prompt_tokens=len(rows[0].prompt),
        completion_tokens=sum(len(row.label) for row in rows),
    )
