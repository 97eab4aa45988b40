"""Policies that choose operations: those that learn nothing, and a trained instructor.

A policy's version, together with the chain, decides its choices, so a row that names it can be
replayed. The random numbers of a choice depend on run seed, seed, episode and step.

A trained instructor is a small network that is evaluated without a training library. Its checkpoint
is two files with equal bytes for equal values: `instructor.safetensors` (float32, by
stable-baselines3's names, value network included) and `instructor.json` (`InstructorForm`).
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
from refine_dagster.evaluation.diversity import Embedding
from refine_dagster.hashing import canonical_json, json_hash, readable_json
from refine_dagster.seeding import request_seed
from refine_dagster.teams_rl.chain import Chain, ObservationMode, observation_size, observe
from refine_dagster.teams_rl.operations import NAMES


class InstructorPolicy(Protocol):
    """Chooses the next operation of each chain.

    `name` is for reports (`random`, `fixed:breadth`, `ppo`), `version` a hash of the content.
    """

    name: str
    version: str

    def choose(self, chains: Sequence[Chain]) -> list[str]:
        """The name of an operation for each chain, from that chain alone."""


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
    """All operations in turn; a seed begins at an operation of its own, shifted by the episode."""

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
    """The random number in [0, 1) of a chain's next choice."""
    seed = request_seed(run_seed, "operation", chain.seed_id, chain.episode, chain.step)
    # The upper 53 bits of 63, a double's worth.
    return float((seed >> 10) * 2.0**-53)


WEIGHTS_FILE = "instructor.safetensors"
FORM_FILE = "instructor.json"

Weights = Mapping[str, NDArray[np.float32]]


class InstructorError(RefineError):
    """An instructor's files cannot be read, or do not fit the embedding."""


@dataclass(frozen=True)
class InstructorForm:
    """How to read an instructor's weights."""

    algorithm: str
    observation: ObservationMode
    embedding: str  # that it was trained with, by name
    hidden: tuple[int, ...]  # widths of the hidden layers (tanh)
    operations: tuple[str, ...] = NAMES  # names of the actions, in order


class LearnedPolicy:
    """Samples from a network's distribution over operations (implements `InstructorPolicy`).

    Raises:
        InstructorError: it was trained with another embedding, or weights are missing.
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
        chosen = []
        for chain, shares in zip(chains, self.probabilities(chains), strict=True):
            number = uniform(self._run_seed, chain)
            action = int(np.searchsorted(shares.cumsum(), number, side="right"))
            chosen.append(self._form.operations[min(action, len(shares) - 1)])
        return chosen

    def probabilities(self, chains: Sequence[Chain]) -> NDArray[np.float64]:
        """Shares of the operations, shape (chains, operations), each row from its chain alone."""
        operations = self._form.operations
        observations = observe(chains, self._form.observation, self._embedding, operations)
        # Row by row, because the rounding of a matrix product depends on the number of rows.
        shares = [self._row(row) for row in observations.astype(np.float64)]
        return np.array(shares).reshape(-1, len(operations))

    def _row(self, hidden: NDArray[np.float64]) -> NDArray[np.float64]:
        *inner, (matrix, bias) = self._layers
        for weight, shift in inner:
            hidden = np.tanh(weight @ hidden + shift)
        scores = matrix @ hidden + bias
        shares: NDArray[np.float64] = np.exp(scores - scores.max())
        return shares / shares.sum()


def instructor_version(form: InstructorForm, weights: Weights) -> str:
    digest = hashlib.sha256(canonical_json(asdict(form)).encode())
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name], dtype="<f4").tobytes())
    return digest.hexdigest()


def save_instructor(form: InstructorForm, weights: Weights, folder: Path) -> None:
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: np.ascontiguousarray(weights[name], np.float32) for name in sorted(weights)}
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
        lists = {name: tuple(values[name]) for name in ("hidden", "operations")}
        form = InstructorForm(**values | lists)
        weights = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise InstructorError(
            f"the instructor cannot be read: {error}", where=str(folder), fix="train it again"
        ) from error
    return LearnedPolicy(form, weights, embedding, run_seed)


def _layers(
    form: InstructorForm, weights: Weights, inputs: int
) -> list[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """The policy's layers, first to last: matrix (outputs, inputs) and bias."""
    # In the library's network every hidden layer is followed by one without weights.
    names = [f"mlp_extractor.policy_net.{2 * number}" for number in range(len(form.hidden))]
    layers = []
    for name, outputs in zip(
        [*names, "action_net"], [*form.hidden, len(form.operations)], strict=True
    ):
        matrix, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if matrix is None or bias is None or matrix.shape != (outputs, inputs):
            raise InstructorError(
                f"layer {name} is missing or not of {outputs} by {inputs} weights",
                fix="train the instructor again",
            )
        layers.append((matrix.astype(np.float64), bias.astype(np.float64)))
        inputs = outputs
    return layers
