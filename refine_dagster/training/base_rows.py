"""The offline base model's rows of text as tensors: token ids, and how much each token counts.

An output is the shortest part of a triple and the only one that the task decides; in a plain mean
of the tokens' losses it drowns in the wording around it. Its tokens therefore count several times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from refine_dagster.training.tokenizer import END

# An output's first line, with the sign that ends it: a line break or the end token.
OUTPUT = re.compile(rf"(?<=^Output:)[^\n]*?(?:\n|{re.escape(END)}|\Z)", re.MULTILINE)


def encode_rows(
    tokenizer: Any, rows: Sequence[str], length: int, output_weight: float
) -> tuple[Any, Any]:
    """Ids and weights of the rows' first `length` tokens.

    A row is encoded as one text: pieces encoded one by one would meet in other tokens than a
    prompt's do. A row of fewer tokens (long runs of one sign are few) is read again from its start.

    Returns:
        `ids`, int64, and `weights`, float32, both of shape (rows, length). A token of a triple's
        output weighs `output_weight`, any other 1.
    """
    import torch

    encoded = tokenizer(
        list(rows),
        truncation=True,
        max_length=length,
        padding=False,
        return_offsets_mapping=True,
    )
    ids, weights = [], []
    for row, tokens, spans in zip(
        rows, encoded["input_ids"], encoded["offset_mapping"], strict=True
    ):
        repeats = -(-length // len(tokens))
        outputs = in_output(row, spans)
        weighed = [output_weight if inside else 1.0 for inside in outputs]
        ids.append((tokens * repeats)[:length])
        weights.append((weighed * repeats)[:length])
    return torch.tensor(ids), torch.tensor(weights)


def in_output(row: str, spans: Sequence[tuple[int, int]]) -> Iterator[bool]:
    """For each token, given by its span of characters in order, whether it lies in an output."""
    outputs = OUTPUT.finditer(row)
    output = next(outputs, None)
    for start, _ in spans:
        while output is not None and output.end() <= start:
            output = next(outputs, None)
        yield output is not None and output.start() <= start
