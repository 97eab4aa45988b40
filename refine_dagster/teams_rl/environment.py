"""The instructor's environments: gymnasium's, and a vectorised one.

An episode begins at a new seed and has six steps; an action is the index of an operation in
`Setting.operations`. `VectorEnvironment` steps N episodes in lock-step, with one batch of requests
to the executor a step. Import this module inside functions: its libraries take seconds to load.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from refine_dagster.evaluation.diversity import Embedding
from refine_dagster.teams_rl.chain import (
    Chain,
    Episodes,
    Evolver,
    ObservationMode,
    Outcome,
    Seed,
    observation_size,
    observe,
)
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, NAMES
from refine_dagster.teams_rl.reward import Reward


@dataclass(frozen=True)
class Setting:
    """What both environments play; `operations` are the names of the actions, in order."""

    seeds: Sequence[Seed]
    evolver: Evolver
    reward: Reward
    embedding: Embedding
    mode: ObservationMode
    run_seed: str
    operations: Sequence[str] = NAMES

    def observation_space(self) -> gymnasium.spaces.Box:
        size = observation_size(self.mode, self.embedding, len(self.operations))
        low = 0.0 if self.mode == "paper" else -1.0
        return gymnasium.spaces.Box(low, 1.0, (size,), np.float32)

    def observe(self, chains: Sequence[Chain]) -> NDArray[np.float32]:
        return observe(chains, self.mode, self.embedding, self.operations)

    def action_space(self) -> gymnasium.spaces.Discrete:
        return gymnasium.spaces.Discrete(len(self.operations))


class InstructionEnvironment(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One episode at a time.

    `reset(seed=...)` begins the sequence of episodes of that number, with an empty archive;
    `reset()` begins the next episode of the sequence.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self.observation_space = setting.observation_space()
        self.action_space = setting.action_space()
        self._episodes = Episodes(setting.seeds, setting.run_seed)
        self._number = -1
        self._chain: Chain | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._episodes = Episodes(self._setting.seeds, f"{self._setting.run_seed}/{seed}")
            self._number = -1
            self._setting.reward.clear()
        self._number += 1
        self._chain = self._episodes.chain(self._number)
        return self._setting.observe([self._chain])[0], {"seed_id": self._chain.seed_id}

    def step(
        self, action: np.int64
    ) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if self._chain is None or self._chain.step >= EPISODE_LENGTH:
            raise gymnasium.error.ResetNeeded("an episode begins with reset()")
        outcomes = self._setting.evolver.step(
            [self._chain], [self._setting.operations[int(action)]]
        )
        reward = self._setting.reward.pay(outcomes)[0]
        self._chain = outcomes[0].after()
        over = self._chain.step >= EPISODE_LENGTH
        return self._setting.observe([self._chain])[0], reward, over, False, _info(outcomes[0])


class VectorEnvironment(VecEnv):
    """N episodes in lock-step: environment i of round r plays episode `r * N + i`."""

    def __init__(self, setting: Setting, environments: int) -> None:
        super().__init__(environments, setting.observation_space(), setting.action_space())
        self._setting = setting
        self._episodes = Episodes(setting.seeds, setting.run_seed)
        self._round = -1
        self._chains: list[Chain] = []
        self._chosen: list[str] = []
        self._outcomes: list[Outcome] = []

    def go_to(self, rounds: int) -> None:
        """Let the next `reset` begin round `rounds`."""
        self._round = rounds - 1

    def take_outcomes(self) -> list[Outcome]:
        """Outcomes since the last call, in order."""
        outcomes, self._outcomes = self._outcomes, []
        return outcomes

    def reset(self) -> NDArray[np.float32]:
        self._round += 1
        first = self._round * self.num_envs
        self._chains = [self._episodes.chain(first + index) for index in range(self.num_envs)]
        return self._setting.observe(self._chains)

    def step_async(self, actions: NDArray[np.int64]) -> None:
        self._chosen = [self._setting.operations[int(action)] for action in actions]

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.bool_], list[dict[str, Any]]]:
        outcomes = self._setting.evolver.step(self._chains, self._chosen)
        rewards = np.array(self._setting.reward.pay(outcomes), dtype=np.float32)
        self._outcomes += outcomes
        self._chains = [outcome.after() for outcome in outcomes]
        infos = [_info(outcome) for outcome in outcomes]
        over = self._chains[0].step >= EPISODE_LENGTH
        observations = self._setting.observe(self._chains)
        if over:
            for row, info in enumerate(infos):
                info["terminal_observation"] = observations[row]
                info["TimeLimit.truncated"] = False
            observations = self.reset()
        return observations, rewards, np.full(self.num_envs, over), infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self, attr_name, None) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        setattr(self, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        return [
            getattr(self, method_name)(*method_args, **method_kwargs)
            for _ in self._get_indices(indices)
        ]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper], indices: Any = None
    ) -> list[bool]:
        return [False for _ in self._get_indices(indices)]


def _info(outcome: Outcome) -> dict[str, Any]:
    return {
        "seed_id": outcome.before.seed_id,
        "operation": outcome.operation,
        "text": outcome.text,
        "rule": outcome.rule,
    }
