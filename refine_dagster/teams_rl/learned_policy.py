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
from refine_dagster.teams_rl.operations import COUNT, NAMES


class InstructorPolicy(Protocol):
    """Chooses the next operation of each chain.

    Attributes:
        name: for reports: `random`, `round_robin`, `fixed:breadth`, `ppo`, `trpo`.
        version: names its content, 64 hex digits.
    """

    name: str
    version: str

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        """Places in `OPERATIONS`, one a chain; each a function of that chain alone."""


class RandomPolicy:
    """Every operation with equal chance (WizardLM's own choice; implements `InstructorPolicy`)."""

    name = "random"

    def __init__(self, run_seed: str) -> None:
        self._run_seed = run_seed
        self.version = policy_version(self.name, run_seed)

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [int(uniform(self._run_seed, chain) * COUNT) for chain in chains]


class RoundRobinPolicy:
    """All operations in turn; each seed begins at its own, the next episode at the next."""

    name = "round_robin"

    def __init__(self) -> None:
        self.version = policy_version(self.name)

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [
            (request_seed(self.name, chain.seed_id) + chain.episode + chain.step) % COUNT
            for chain in chains
        ]


class FixedPolicy:
    """One operation, always.

    Args:
        operation: place in `OPERATIONS`.
    """

    def __init__(self, operation: int) -> None:
        self.name = f"fixed:{NAMES[operation]}"
        self.version = policy_version(self.name)
        self._operation = operation

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        return [self._operation for _ in chains]


def policy_version(*parts: str) -> str:
    """sha256 of what decides a policy's choices, 64 hex digits."""
    return json_hash(["instructor", *parts, list(NAMES)])


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
        InstructorError: the embedding or the operations are others than it was trained with, or
            weights are missing.
    """

    def __init__(
        self, form: InstructorForm, weights: Weights, embedding: Embedding, run_seed: str
    ) -> None:
        for what, have, need in (
            ("embedding", embedding.name, form.embedding),
            ("operations", NAMES, form.operations),
        ):
            if have != need:
                raise InstructorError(
                    f"the instructor was trained with other {what}",
                    where=f"{need} there, {have} here",
                    fix="train it anew",
                )
        self.name = form.algorithm
        self.version = instructor_version(form, weights)
        self._form = form
        self._embedding = embedding
        self._run_seed = run_seed
        self._layers = _layers(form, weights, observation_size(form.observation, embedding))

    def choose(self, chains: Sequence[Chain]) -> list[int]:
        """See `InstructorPolicy.choose`."""
        chosen = []
        for chain, shares in zip(chains, self.probabilities(chains), strict=True):
            place = int(
                np.searchsorted(shares.cumsum(), uniform(self._run_seed, chain), side="right")
            )
            chosen.append(min(place, COUNT - 1))
        return chosen

    def probabilities(self, chains: Sequence[Chain]) -> NDArray[np.float64]:
        """Shares of the operations, shape (chains, 6), each row a function of its chain alone."""
        seen = observe(chains, self._form.observation, self._embedding).astype(np.float64)
        # Row by row: rounding of a product of matrices depends on how many rows there are.
        return np.array([self._row(row) for row in seen]).reshape(-1, COUNT)

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
    for name, outputs in zip([*names, "action_net"], [*form.hidden, COUNT], strict=True):
        matrix, bias = weights.get(f"{name}.weight"), weights.get(f"{name}.bias")
        if matrix is None or bias is None or matrix.shape != (outputs, inputs):
            raise InstructorError(
                f"layer {name} is missing or not of {outputs} by {inputs} weights",
                fix="train the instructor anew",
            )
        layers.append((matrix.astype(np.float64), bias.astype(np.float64)))
        inputs = outputs
    return layers
