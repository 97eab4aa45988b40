"""The log-probability of a label after a prompt, for questions with a closed set of answers.

A label's log-probability is the sum over its own tokens, each given the prompt and those before.
Prompt and label are turned into tokens apart, so a label is the same tokens after any prompt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from refine_dagster.models.language_model import LoadedModel
from refine_dagster.models.padding import ROWS, pad_left, padded_length, positions


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


def label_scores(loaded: LoadedModel, batch: Sequence[LabelRow]) -> list[float]:
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
