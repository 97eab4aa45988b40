"""The log-probability of a label after a prompt, for questions with a closed set of answers.

A label's log-probability is the sum over its own tokens, each given the prompt and those before.
Prompt and label are turned into tokens apart, so a label is the same tokens after any prompt. As in
decoding (`transformers_backend`), deterministic mode gives every pass a shape that the row alone
decides: sequences padded on the left to a multiple of `BUCKET`, `ROWS` rows, labels of one length.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from refine_dagster.language_model import LoadedModel

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
