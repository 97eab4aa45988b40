"""The transformers backend: requests sorted by length, decoded in batches.

In deterministic mode a completion is a function of the request alone, bit for bit: every pass has
the shape of `padding.ROWS` prompts of one padded length. The batch size then bounds how many
requests are committed together, after one pass or several. Measured on the offline model, it takes
half to two thirds more time than free batches of the same size.

Otherwise what all prompts of a batch begin with is read once: prompts of one role begin with the
same words, the instruction of the task and often its examples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TypeVar

from refine_dagster.config.models import GeneratorConfig
from refine_dagster.generation.decoding import (
    Sequences,
    Writing,
    read_once,
    request_noise,
    shared_start,
    write,
)
from refine_dagster.generation.label_scoring import LabelRow, label_batches, label_scores
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
from refine_dagster.models.memory import announce, generation_budget, requests_that_fit
from refine_dagster.models.padding import ROWS, pad_left, padded_length
from refine_dagster.models.size import model_size

T = TypeVar("T")
R = TypeVar("R")

LOWER = (
    "lower the stage's max_new_tokens or max_demonstration_tokens, or set device.quantization to "
    "`nf4`; with device.deterministic a batch cannot be made smaller"
)


@dataclass(frozen=True)
class _Row:
    """A request for a text, and its position among the requests."""

    position: int
    request: Request
    sampling: Sampling
    prompt: list[int]


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
        self._text = ModelText.of(loaded.model, loaded.tokenizer)

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
        for row in rows:
            new = row.sampling.max_new_tokens
            self._text.check_length(row.request.role, len(row.prompt), new)
        for label_row in labels:
            role = requests[label_row.position].role
            self._text.check_length(role, len(label_row.prompt), len(label_row.label))
        if rows:
            longest = max(len(row.prompt) for row in rows)
            new = max(row.sampling.max_new_tokens for row in rows)
            for batch in self._batches(rows, self._most(longest, new)):
                for part, written in self._fitting("decoding", batch, self._decode):
                    positions = [row.position for row in part]
                    yield list(zip(positions, written, strict=True))
        yield from self._scored(labels)

    def count_tokens(self, text: str) -> int:
        """Length of `text` in tokens, without the marks some models put around a text."""
        return self._text.count_tokens(text)

    def cut(self, text: str, max_tokens: int) -> str:
        """The longest start of `text` of at most `max_tokens` tokens."""
        return self._text.cut(text, max_tokens)

    def _most(self, prompt: int, new: int) -> int:
        """Requests of that length in a batch; announces the budget of the first call."""
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
        most = ROWS if self._deterministic else self._most(longest, 0)
        asked: dict[int, list[LabelRow]] = {}
        for row in labels:
            asked.setdefault(row.position, []).append(row)
        scores: dict[int, dict[int, float]] = {position: {} for position in asked}
        for batch in label_batches(labels, most, self._deterministic):
            done = []
            for part, scored in self._fitting(
                "scoring", batch, lambda rows: label_scores(self._loaded, rows)
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
        """Write every row of a batch, in order."""
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
                shared = shared_start(prompts)
                cache = read_once(model, prompts[0][:shared], len(prompts)) if shared else None
                shared = 0 if cache is None else shared
                padded = pad_left(prompts, pad, shared=shared)
                sequences = Sequences(model, padded, steps, cache, shared)
            write(written, sequences, self._text)
        return written


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
