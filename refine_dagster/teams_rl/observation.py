"""What the instructor sees of a chain.

`paper` shows the last operation alone, one-hot (all zeros at first): the policy never sees the text
and cannot know where an operation would fail. `rich` shows the text's embedding, how often each
operation was applied and the share of the episode that is over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from refine_dagster.teams_rl.chain import Chain
from refine_dagster.teams_rl.embedding import Embedding
from refine_dagster.teams_rl.operations import COUNT, EPISODE_LENGTH

ObservationMode = Literal["paper", "rich"]


def observation_size(mode: ObservationMode, embedding: Embedding) -> int:
    """Length of an observation; every number of it lies in [-1, 1]."""
    return COUNT if mode == "paper" else embedding.dimensions + COUNT + 1


def observe(
    chains: Sequence[Chain], mode: ObservationMode, embedding: Embedding
) -> NDArray[np.float32]:
    """Observations, shape (chains, `observation_size`)."""
    size = observation_size(mode, embedding)
    seen = np.zeros((len(chains), size), dtype=np.float32)
    if mode == "paper":
        for row, chain in enumerate(chains):
            if chain.operations:
                seen[row, chain.operations[-1]] = 1.0
        return seen
    width = embedding.dimensions
    seen[:, :width] = embedding.embed([chain.text for chain in chains])
    for row, chain in enumerate(chains):
        seen[row, width : width + COUNT] = np.minimum(
            1.0, np.array(chain.counts()) / EPISODE_LENGTH
        )
        seen[row, -1] = min(1.0, chain.step / EPISODE_LENGTH)
    return np.clip(seen, -1.0, 1.0)
