"""A learnt instructor: a small network, its file, and choices from it without a training library.

A checkpoint is two files with equal bytes for equal values: `instructor.safetensors` (float32,
named as stable-baselines3 names them, values' network included) and `instructor.json` (how to read
them).

Who chooses operations: the protocol, and the policies that learn nothing.

Every policy has a name and a version: the version decides its choices, together with the chain, so
that a row that names it can be replayed. All noise of a choice is named by run seed, seed and step.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refine_dagster.errors import RefineError
from refine_dagster.hashing import canonical_json, json_hash, readable_json
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.chain import Chain, ObservationMode, observation_size, observe
from refine_dagster.teams_rl.embedding import Embedding
from refine_dagster.teams_rl.operations import NAMES


class InstructorPolicy(Protocol):
    """Chooses the next operation of each chain.

    Attributes:
        name: for reports: `random`, `round_robin`, `fixed:breadth`, `ppo`, `trpo`.
        version: names its content, 64 hex digits.
    """

    name: str
    version: str

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        """Names of operations, one a chain; each a function of that chain alone."""


class RandomPolicy:
    """Every operation with equal chance (WizardLM's own choice; implements `InstructorPolicy`)."""

    name = "random"

    def __init__(self, run_seed: str, operations: Sequence[str] = NAMES) -> None:
        self._run_seed = run_seed
        self._operations = operations
        self.version = policy_version(operations, self.name, run_seed)

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        count = len(self._operations)
        return [self._operations[int(uniform(self._run_seed, chain) * count)] for chain in chains]


class RoundRobinPolicy:
    """All operations in turn; each seed begins at its own, the next episode at the next."""

    name = "round_robin"

    def __init__(self, operations: Sequence[str] = NAMES) -> None:
        self._operations = operations
        self.version = policy_version(operations, self.name)

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        turns = (
            request_seed(self.name, chain.seed_id) + chain.episode + chain.step for chain in chains
        )
        return [self._operations[turn % len(self._operations)] for turn in turns]


class FixedPolicy:
    """One operation, always."""

    def __init__(self, operation: str, operations: Sequence[str] = NAMES) -> None:
        self.name = f"fixed:{operation}"
        self.version = policy_version(operations, self.name)
        self._operation = operation

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        return [self._operation for _ in chains]


def policy_version(operations: Sequence[str], *parts: str) -> str:
    """sha256 of what decides a policy's choices among some operations, 64 hex digits."""
    return json_hash(["instructor", *parts, list(operations)])


def uniform(run_seed: str, chain: Chain) -> float:
    """A number in [0, 1) for the next choice on a chain."""
    seed = request_seed(run_seed, "operation", chain.seed_id, chain.episode, chain.step)
    # The upper 53 bits of 63, a double's worth.
    return float((seed >> 10) * 2.0**-53)


WEIGHTS_FILE = "instructor.safetensors"
FORM_FILE = "instructor.json"

Weights = Mapping[str, NDArray[np.float32]]


class InstructorError(RefineError):
    """An instructor's files cannot be read, or are of another form than what asks for them."""


@dataclass(frozen=True)
class InstructorForm:
    """How an instructor's weights are read.

    Attributes:
        algorithm: `ppo` or `trpo`.
        observation: `paper` or `rich`.
        embedding: name of the embedding that was observed.
        hidden: widths of the hidden layers (tanh).
        operations: names of the actions, in order.
    """

    algorithm: str
    observation: ObservationMode
    embedding: str
    hidden: tuple[int, ...]
    operations: tuple[str, ...] = NAMES


class LearnedPolicy:
    """Samples from a network's distribution over operations (implements `InstructorPolicy`).

    Args:
        form: how to read the weights.
        weights: by name.
        embedding: the one it was trained with.
        run seed: seeds the sampling.

    Raises:
        InstructorError: the embedding is another than it was trained with, or weights are missing.
    """

    def __init__(
        self, form: InstructorForm, weights: Weights, embedding: Embedding, run_seed: str
    ) -> None:
        if embedding.name != form.embedding:
            raise InstructorError(
                "the instructor was trained with another embedding",
                where=f"{form.embedding} there, {embedding.name} here",
                fix="train it again",
            )
        self.name = form.algorithm
        self.version = instructor_version(form, weights)
        self._form = form
        self._embedding = embedding
        self._run_seed = run_seed
        inputs = observation_size(form.observation, embedding, len(form.operations))
        self._layers = _layers(form, weights, inputs)

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        """See `InstructorPolicy.choose`."""
        chosen = []
        for chain, shares in zip(chains, self.probabilities(chains), strict=True):
            place = int(
                np.searchsorted(shares.cumsum(), uniform(self._run_seed, chain), side="right")
            )
            chosen.append(self._form.operations[min(place, len(shares) - 1)])
        return chosen

    def probabilities(self, chains: Sequence[Chain]) -> NDArray[np.float64]:
        """Shares of the form's operations, shape (chains, operations).

        Each row is a function of its chain alone.
        """
        operations = self._form.operations
        seen = observe(chains, self._form.observation, self._embedding, operations)
        # Row by row: rounding of a product of matrices depends on how many rows there are.
        shares = [self._row(row) for row in seen.astype(np.float64)]
        return np.array(shares).reshape(-1, len(operations))

    def _row(self, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
        *inner, (matrix, bias) = self._layers
        for weight, shift in inner:
            hidden = np.tanh(weight @ hidden + shift)
        scores = matrix @ hidden + bias
        shares: NDArray[np.float64] = np.exp(scores - scores.max())
        return shares / shares.sum()


def instructor_version(form: InstructorForm, weights: Weights) -> str:
    """sha256 over form and weights, 64 hex digits."""
    digest = hashlib.sha256(canonical_json(asdict(form)).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def save_instructor(form: InstructorForm, weights: Weights, folder: Path) -> None:
    """Write an instructor's two files."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: np.ascontiguousarray(weights[name], dtype=np.float32) for name in sorted(weights)
    }
    save_file(tensors, folder / WEIGHTS_FILE)
    (folder / FORM_FILE).write_text(readable_json(asdict(form)), encoding="utf-8")


def load_instructor(folder: Path, embedding: Embedding, run_seed: str) -> LearnedPolicy:
    """Read an instructor.

    Raises:
        InstructorError: a file is missing or damaged, or was trained with another embedding.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        values = json.loads((folder / FORM_FILE).read_text(encoding="utf-8"))
        form = InstructorForm(
            **{**values, "hidden": tuple(values["hidden"])}
            | {"operations": tuple(values["operations"])}
        )
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InstructorError(
            f"the instructor cannot be read: {error}", where=str(folder), fix="train it anew"
        ) from error
    return LearnedPolicy(form, weights, embedding, run_seed)


def _layers(
    form: InstructorForm, weights: Weights, inputs: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The policy's layers, first to last: matrix (outputs, inputs) and bias."""
    # In the library's network every hidden layer is followed by one without weights.
    names = [f"mlp_extractor.policy_net.{2 * place}" for place in range(len(form.hidden))]
    layers = []
    for name, outputs in zip(
        [*names, "action_net"], [*form.hidden, len(form.operations)], strict=True
    ):
        matrix, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if matrix is None or bias is None or matrix.shape != (outputs, inputs):
            raise InstructorError(
                f"layer {name} is missing or not of {outputs} by {inputs} weights",
                fix="train the instructor anew",
            )
        layers.append((matrix.astype(np.float64), bias.astype(np.float64)))
        inputs = outputs
    return layers
