"""The judge, whose four scores of an example are the automated feedback (methods A, stage 2).

The offline judge's network (`judge_network.py`) answers with understandability, with naturalness
and coherence given that the text can be understood, and with a Bradley-Terry reward. Text that
cannot be understood is neither natural nor an answer, so those two probabilities are products and
never exceed understandability.

A score must not depend on what else was scored in the same call, since it becomes part of a row's
content. So every pass through the network has one of a few fixed shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from refine_dagster.hashing import folder_files, json_hash
from refine_dagster.judge.network import (
    MAX_LENGTH,
    Encoded,
    Network,
    log_probabilities,
    read_network,
)
from refine_dagster.models.device import Device, release_memory
from refine_dagster.prompts.example import Example

DECIMALS = 6
# Rows of every pass, and the lengths in tokens that a pass may have; both are part of a score.
ROWS = 16
LENGTHS = (32, 48, 64, 96, 128, 192, 256, 384, MAX_LENGTH)
# A pass over a long text has fewer rows, so that attention's memory stays bounded.
MAX_TOKENS_A_PASS = 4096


# Part -> score of one example.
Scores = Mapping[str, float]


@dataclass(frozen=True)
class Part:
    """One number that a judge gives an example.

    Attributes:
        probability: whether it is one, 0 to 1; otherwise only differences have a meaning.
    """

    name: str
    meaning: str
    probability: bool = False


# The indicators of REFINE-AF (arXiv 2505.06548, section 3.2), which both judges give.
PARTS = (
    Part("naturalness", "Probability that the text reads naturally.", probability=True),
    Part("coherence", "Probability that the output answers the task.", probability=True),
    Part("understandability", "Probability that the text is understandable.", probability=True),
    Part("reward_model", "Bradley-Terry reward, a real number."),
)


class Judge(Protocol):
    """Scores examples.

    Attributes:
        fingerprint: names everything that decides the scores.
        parts: what each example is scored on.
    """

    fingerprint: str
    parts: tuple[Part, ...]

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """The scores of each example, in the order of `parts`.

        An example's scores do not depend on the other examples.
        """


class TrainedJudge:
    """A judge read from a folder."""

    parts: tuple[Part, ...] = PARTS

    def __init__(self, network: Network, fingerprint: str) -> None:
        self._network = network
        self.fingerprint = fingerprint

    def score(self, examples: Sequence[Example]) -> list[Scores]:
        """Scores, rounded to six decimals; equal examples are read once."""
        found: dict[Example, Scores] = {}
        waiting: dict[int, list[Example]] = {}
        encoded = {example: self._network.encode(example) for example in dict.fromkeys(examples)}
        for example, one in encoded.items():
            waiting.setdefault(padded_length(len(one.ids), self._network.max_length), []).append(
                example
            )
        for length, ready in sorted(waiting.items()):
            rows = max(1, min(ROWS, MAX_TOKENS_A_PASS // length))
            for start in range(0, len(ready), rows):
                chunk = ready[start : start + rows]
                batch = [encoded[example] for example in chunk]
                found.update(zip(chunk, self._pass(batch, rows, length), strict=True))
        return [found[example] for example in examples]

    def _pass(self, batch: list[Encoded], rows: int, length: int) -> list[Scores]:
        import torch

        # Rows that nobody asked for fill the pass up to its fixed shape.
        filled = batch + [batch[0]] * (rows - len(batch))
        with torch.no_grad():
            raw = self._network.read(filled, length).raw[: len(batch)]
            values = torch.cat([log_probabilities(raw).exp(), raw[:, 3:]], dim=-1)
        return [
            {part.name: round(value, DECIMALS) for part, value in zip(PARTS, row, strict=True)}
            for row in values.double().cpu().tolist()
        ]


@contextmanager
def loaded_judge(folder: Path, device: Device) -> Iterator[Judge]:
    """Load the judge that `train_judge` wrote; give its memory back at the end.

    Raises:
        JudgeError: the folder does not hold a whole judge, or one of another format.
    """
    judge = TrainedJudge(read_network(folder, device), judge_fingerprint(folder))
    try:
        yield judge
    finally:
        del judge
        release_memory(device)


def judge_fingerprint(folder: Path) -> str:
    """The name of the judge in `folder`: sha256 over its files and their names, 64 hex digits."""
    return json_hash(["judge", folder_files(folder)])


def padded_length(tokens: int, longest: int) -> int:
    """The shortest of the fixed lengths, or `longest`, that holds `tokens`."""
    return next((length for length in LENGTHS if tokens <= length < longest), longest)
