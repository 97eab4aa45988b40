"""The transformers backend: requests sorted by length, decoded in batches; labels are scored.

In deterministic mode a completion is a function of the request alone, bit for bit: every pass has
the shape of `padding.ROWS` prompts of one padded length. The batch size then bounds how many
requests are committed together, after one pass or several. Measured on the offline model, it takes
half to two thirds more time than free batches of the same size.

Otherwise what all prompts of a batch begin with is read once.

A label's log-probability is the sum over its own tokens, each given the prompt and those before.
Prompt and label are turned into tokens apart, so a label is the same tokens after any prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

import numpy as np

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.decoding import (
    Sequences,
    Writing,
    read_once,
    request_noise,
    shared_start,
    write,
)
from refine_dagster.generation.model_text import ModelText, backend_fingerprint
from refine_dagster.generation.request import (
    Completion,
    Request,
    Sampling,
    Scoring,
    scored_completion,
)
from refine_dagster.models.batches import in_batches_that_fit
from refine_dagster.models.device import Device, free_memory
from refine_dagster.models.language_model import LoadedModel, ModelRef, loaded_model
from refine_dagster.models.memory import announce, generation_budget, model_size, requests_that_fit
from refine_dagster.models.padding import ROWS, pad_left, padded_length, positions

T = TypeVar("T")
R = TypeVar("R")

LOWER = (
    "lower the stage's max_new_tokens or max_demonstration_tokens, or set device.quantization to "
    "`nf4`; with device.deterministic a batch cannot be made smaller"
)


@dataclass(frozen=True)
class _Row:
    position: int
    request: Request
    sampling: Sampling
    prompt: list[int]


@dataclass(frozen=True)
class LabelRow:
    """One label of one request, the positions of both, and their token ids, neither empty."""

    position: int
    place: int
    prompt: list[int]
    label: list[int]

    @property
    def tokens(self) -> list[int]:
        return [*self.prompt, *self.label]


def label_batches(
    labels: Sequence[LabelRow], most: int, deterministic: bool
) -> Iterator[list[LabelRow]]:
    """At most `most` rows of one label length and, if deterministic, one padded length.

    Short ones come first.
    """

    def shape(row: LabelRow) -> tuple[int, int]:
        return len(row.label), padded_length(len(row.tokens)) if deterministic else 0

    ordered = sorted(labels, key=lambda row: (shape(row), len(row.prompt), row.position, row.place))
    for _, group in groupby(ordered, key=shape):
        rows = list(group)
        for start in range(0, len(rows), most):
            yield rows[start : start + most]


def score_labels(loaded: LoadedModel, batch: Sequence[LabelRow]) -> list[float]:
    """Log-probabilities of a batch of `label_batches`, in order.

    In nats: float64 sums over the log-softmax of float32 logits. On a deterministic device a score
    is a function of its row alone, bit for bit.
    """
    import torch

    rows, label = [row.tokens for row in batch], len(batch[0].label)
    shape = None
    if loaded.device.deterministic:
        shape = ROWS, padded_length(max(map(len, rows)))
    padded = pad_left(rows, loaded.tokenizer.pad_token_id, shape=shape)
    ids, mask = padded.tensors(loaded.device.name)
    with torch.inference_mode():
        answer = loaded.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions(mask),
            use_cache=False,
            logits_to_keep=label + 1,
        )
        logits = answer.logits[:, -label - 1 : -1].float().cpu().numpy().astype(np.float64)
    scores = []
    for row, values in zip(batch, logits, strict=False):
        total = 0.0
        for token, of_token in zip(row.label, values, strict=True):
            top = float(of_token.max())
            total += float(of_token[token]) - top - float(np.log(np.exp(of_token - top).sum()))
        scores.append(total)
    return scores


class TransformersBackend:
    """Runs requests on a loaded model (implements `request.Backend`).

    Where a card's memory runs out, a batch is decoded again in halves, each request from the start
    of its own noise, and the size that fits is kept for the session.

    Args:
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
        self._text = ModelText.of(loaded.model, loaded.tokenizer)
        self.count_tokens, self.cut = self._text.count_tokens, self._text.cut

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
        lengths = [(row.position, row.prompt, row.sampling.max_new_tokens) for row in rows]
        lengths += [(row.position, row.prompt, len(row.label)) for row in labels]
        for position, prompt, new in lengths:
            self._text.check_length(requests[position].role, len(prompt), new)
        if rows:
            longest = max(len(row.prompt) for row in rows)
            new = max(row.sampling.max_new_tokens for row in rows)
            for batch in self._batches(rows, self._most(longest, new)):
                for part, written in self._fitting("decoding", batch, self._decode):
                    positions = [row.position for row in part]
                    yield list(zip(positions, written, strict=True))
        yield from self._scored(labels)

    def _most(self, prompt: int, new: int) -> int:
        """Requests of that length in a batch; announces the budget of the first call."""
        most, device = self._batch_size, self._loaded.device
        size = model_size(self._loaded.ref)
        if most is None:
            most = self._together(requests_that_fit(size, device, prompt, new))
        if not self._announced and (device.name != "cpu" or self._batch_size is None):
            self._announced = True
            together = self._together(most)
            budget = generation_budget(size, device, together, prompt, new, "generation")
            # The weights are there already.
            announce(budget, device, LOWER, free_memory(device) + budget.lines[0].bytes)
        return most

    def _together(self, most: int) -> int:
        return min(most, ROWS) if self._deterministic else most

    def _fitting(
        self, work: str, batch: Sequence[T], run: Callable[[Sequence[T]], R]
    ) -> Iterator[tuple[Sequence[T], R]]:
        """Parts of a batch for which memory is enough; deterministic passes always have `ROWS`."""
        smallest = len(batch) if self._deterministic else 1
        return in_batches_that_fit(self._loaded.device, work, batch, run, LOWER, smallest)

    def _scored(self, labels: Sequence[LabelRow]) -> Iterator[list[tuple[int, Completion]]]:
        if not labels:
            return
        longest = max(len(row.tokens) for row in labels)
        most = ROWS if self._deterministic else self._most(longest, 0)
        asked: dict[int, list[LabelRow]] = {}
        for row in labels:
            asked.setdefault(row.position, []).append(row)
        scores: dict[int, dict[int, float]] = {position: {} for position in asked}
        for batch in label_batches(labels, most, self._deterministic):
            done = []
            for part, scored in self._fitting(
                "scoring", batch, lambda rows: score_labels(self._loaded, rows)
            ):
                for row, score in zip(part, scored, strict=True):
                    of_request = scores[row.position]
                    of_request[row.place] = score
                    lengths = [len(label_row.label) for label_row in asked[row.position]]
                    if len(of_request) == len(lengths):
                        in_order = [of_request[place] for place in range(len(lengths))]
                        completion = scored_completion(in_order, len(row.prompt), lengths)
                        done.append((row.position, completion))
            if done:
                yield done

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
        """Rows decoded together; in deterministic mode at most `ROWS` of one padded length."""
        most = self._together(most)
        for _, group in groupby(
            ordered, key=lambda row: padded_length(len(row.prompt)) if self._deterministic else 0
        ):
            rows = list(group)
            for start in range(0, len(rows), most):
                yield rows[start : start + most]

    def _decode(self, batch: Sequence[_Row]) -> list[Completion]:
        return [
            writing.completion(self._text)
            for rows in self._passes(batch, len(batch))
            for writing in self._decode_together(rows)
        ]

    def _decode_together(self, batch: Sequence[_Row]) -> list[Writing]:
        import torch

        model, pad = self._loaded.model, self._loaded.tokenizer.pad_token_id
        prompts = [row.prompt for row in batch]
        written = [
            Writing(row.prompt, row.sampling, request_noise(row.request.seed)) for row in batch
        ]
        steps = max(row.sampling.max_new_tokens for row in batch)
        with torch.inference_mode():
            if self._deterministic:
                shape = ROWS, padded_length(len(prompts[0]))
                sequences = Sequences(model, pad_left(prompts, pad, shape=shape), steps)
            else:
                shared, cache = shared_start(prompts), None
                if shared:
                    columns = max(map(len, prompts)) + steps
                    cache = read_once(model, prompts[0][:shared], len(prompts), columns)
                shared = 0 if cache is None else shared
                padded = pad_left(prompts, pad, shared=shared)
                sequences = Sequences(model, padded, steps, cache, shared)
            write(written, sequences, self._text, drop_ended=not self._deterministic)
        return written


@contextmanager
def transformers_backend(
    ref: ModelRef, device: Device, config: GeneratorConfig
) -> Iterator[TransformersBackend]:
    """Load a model with its adapters and run requests on it; its memory is free at the end."""
    with loaded_model(ref, device) as loaded:
        yield TransformersBackend(loaded, config.batch_size)
