"""The judge, whose scores of an example are the automated feedback (docs/methods.md, section 2.2).

A score becomes part of a row's content, so it must not depend on what else is scored in the same
call: see `models/padding.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from refine_dagster import progress
from refine_dagster.hashing import folder_files, json_hash
from refine_dagster.judge.network import (
    MARK_SHARES,
    MAX_LENGTH,
    Encoded,
    Network,
    damaged,
    log_probabilities,
    read_card,
    read_heads,
    read_network,
)
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.models.padding import passes
from refine_dagster.prompts.example import Example

if TYPE_CHECKING:
    from torch import Tensor

DECIMALS = 6
# Rows of a pass of the offline judge, and its lengths in tokens; both are part of a score.
ROWS = 16
LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, MAX_LENGTH)
# A pass over a long text has fewer rows, which bounds the memory that attention takes.
MAX_TOKENS_A_PASS = 4096

# Part -> score of one example.
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Part:
    """One number that a judge gives an example; a `probability`, or a number to compare."""

    name: str
    meaning: str
    probability: bool = False


# The indicators of REFINE-AF, which the offline and the published judge give.
PARTS = (
    Part("naturalness", "Probability that the text reads naturally.", probability=True),
    Part("coherence", "Probability that the output answers the task.", probability=True),
    Part("understandability", "Probability that the text is understandable.", probability=True),
    Part("reward_model", "Bradley-Terry reward, a real number."),
)


class Judge(Protocol):
    """Scores examples; `fingerprint` names everything that decides the scores."""

    fingerprint: str
    parts: tuple[Part, ...]

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """The scores of each example on all `parts`, whatever other examples there are."""


class TrainedJudge:
    """The offline judge. Naturalness and coherence never exceed understandability."""

    parts: tuple[Part, ...] = PARTS

    def __init__(self, network: Network, fingerprint: str) -> None:
        self._network = network
        self.fingerprint = fingerprint

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """Scores, rounded to six decimals; equal examples are read once."""
        import torch

        scores: dict[Example, Scores] = {}
        for texts, rows, length in _passes(self._network, examples):
            with torch.no_grad():
                raw = self._network.read(rows, length).raw[: len(texts)]
                scores.update(zip(texts, _scores(raw), strict=True))
        return [scores[example] for example in examples]


def _passes(
    network: Network, examples: Iterable[Example]
) -> Iterator[tuple[list[Example], list[Encoded], int]]:
    """The examples of a pass, its rows (`models.padding.Pass`) and its length in tokens."""
    encoded = {example: network.encode(example) for example in dict.fromkeys(examples)}
    sizes = {example: len(text.ids) for example, text in encoded.items()}
    for batch in passes(sizes, _rows, network.max_length, LENGTHS):
        yield batch.texts, [encoded[example] for example in batch.rows], batch.length


def _scores(raw: Tensor) -> list[Scores]:
    """The scores of examples from the outputs, shape (examples, 4)."""
    import torch

    values = torch.cat([log_probabilities(raw).exp(), raw[:, 3:]], dim=-1)
    return [named_scores(row) for row in values.double().cpu().tolist()]


def named_scores(values: Sequence[float]) -> Scores:
    """The scores of one example, in the order of `PARTS`, rounded to six decimals."""
    return {part.name: round(value, DECIMALS) for part, value in zip(PARTS, values, strict=True)}


def _rows(length: int) -> int:
    return max(1, min(ROWS, MAX_TOKENS_A_PASS // length))


class FrozenJudge:
    """Linear outputs on what a base model, which stays as it is, computes of a text.

    Args:
        network: the base model; it needs no heads.
        weight, bias: of the outputs, shapes (4, features) and (4,), float64.
    """

    parts: tuple[Part, ...] = PARTS

    def __init__(self, network: Network, weight: Tensor, bias: Tensor, fingerprint: str) -> None:
        self._network, self._weight, self._bias = network, weight, bias
        self.fingerprint = fingerprint

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """Scores, rounded to six decimals."""
        import torch

        features = text_features(self._network, examples)
        # Row by row: a product of several rows rounds each by its position.
        return _scores(torch.stack([self._weight @ row + self._bias for row in features]))


def text_features(network: Network, examples: Sequence[Example]) -> Tensor:
    """What the outputs of a frozen judge see, shape (examples, features), float64.

    Each text is read twice: as it is, and its output without the task. How much likelier the task
    makes the output tells best whether it answers it.
    """
    import torch

    without_task = [Example("", "", example.output) for example in examples]
    read: dict[Example, Tensor] = {}
    with progress.task("texts for the judge", len({*examples, *without_task})) as advance:
        for texts, rows, length in _passes(network, [*examples, *without_task]):
            features = network.features(rows, length)[: len(texts)]
            read.update(zip(texts, features.double().cpu(), strict=True))
            advance(len(texts))
    of_output = slice(-2 * MARK_SHARES - 2, -2 * MARK_SHARES)
    return torch.stack(
        [
            torch.cat([read[example], read[alone][of_output]])
            for example, alone in zip(examples, without_task, strict=True)
        ]
    )


@contextmanager
def loaded_judge(folder: Path, device: Device, base: ModelRef) -> Iterator[Judge]:
    """Load the judge that was trained in a folder; free its memory at the end.

    Args:
        base: the base model, which a frozen judge reads texts with.

    Raises:
        JudgeError: files of the judge are missing or damaged, or of another format or base model.
    """
    card = read_card(folder)
    fingerprint = judge_fingerprint(folder)
    if card["backbone"] == "trained":
        judge: Judge = TrainedJudge(read_network(folder, device), fingerprint)
        try:
            yield judge
        finally:
            del judge
            release_memory(device)
    else:
        if card["base_fingerprint"] != base.fingerprint:
            raise damaged("the judge belongs to another base model", folder)
        heads = {name: weight.to(device.name) for name, weight in read_heads(folder).items()}
        with loaded_model(base, device) as loaded:
            network = Network(loaded.model, None, loaded.tokenizer, device)
            yield FrozenJudge(network, heads["weight"], heads["bias"], fingerprint)


def judge_fingerprint(folder: Path) -> str:
    """sha256 over the judge's files and their names, 64 hex digits."""
    return json_hash(["judge", folder_files(folder)])
