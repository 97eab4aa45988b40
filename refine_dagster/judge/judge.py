"""The judge, whose scores of an example are the automated feedback (docs/methods.md, section 2.2).

A score becomes part of a row's content, so it must not depend on what else is scored in the same
call: see `models/padding.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from refine_dagster.hashing import folder_files, json_hash
from refine_dagster.judge.network import MAX_LENGTH, Network, log_probabilities, read_network
from refine_dagster.models.device import Device, release_memory
from refine_dagster.models.padding import passes
from refine_dagster.prompts.example import Example

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

        encoded = {example: self._network.encode(example) for example in dict.fromkeys(examples)}
        sizes = {example: len(text.ids) for example, text in encoded.items()}
        scores: dict[Example, Scores] = {}
        for batch in passes(sizes, _rows, self._network.max_length, LENGTHS):
            with torch.no_grad():
                rows = [encoded[example] for example in batch.rows]
                raw = self._network.read(rows, batch.length).raw[: len(batch.texts)]
                values = torch.cat([log_probabilities(raw).exp(), raw[:, 3:]], dim=-1)
            read = map(named_scores, values.double().cpu().tolist())
            scores.update(zip(batch.texts, read, strict=True))
        return [scores[example] for example in examples]


def named_scores(values: Sequence[float]) -> Scores:
    """The scores of one example, in the order of `PARTS`, rounded to six decimals."""
    return {part.name: round(value, DECIMALS) for part, value in zip(PARTS, values, strict=True)}


def _rows(length: int) -> int:
    return max(1, min(ROWS, MAX_TOKENS_A_PASS // length))


@contextmanager
def loaded_judge(folder: Path, device: Device) -> Iterator[Judge]:
    """Load the judge that `train_judge` wrote; free its memory at the end.

    Raises:
        JudgeError: files of the judge are missing or damaged, or of another format.
    """
    judge = TrainedJudge(read_network(folder, device), judge_fingerprint(folder))
    try:
        yield judge
    finally:
        del judge
        release_memory(device)


def judge_fingerprint(folder: Path) -> str:
    """sha256 over the judge's files and their names, 64 hex digits."""
    return json_hash(["judge", folder_files(folder)])
