"""Training the instructor: stable-baselines3's PPO, or TRPO as in the paper.

An update plays whole episodes in all environments and learns from them once. Around each update the
global generators are seeded by run seed and update, so a training is a function of its arguments
and its saved state is small. A killed training continues from the last saved update and ends with
the same bytes.

**The collapse guard** (docs/methods.md, sections 5.2 and 5.3) compares the means of the last
`guard_window` updates with a random policy that had the same number of calls, measured first on the
training's own seeds:

- `diversity`: more rewrites are valid than in the first window, and the Vendi score of the kept
  texts is below the random policy's.
- `operations`: the entropy of the chosen operations is below `min_operation_entropy`.

It warns, and after `guard_patience` further warnings in a row ends the training.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from refine_dagster import progress
from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.evaluation.diversity import Embedding, vendi_score
from refine_dagster.seeding import request_seed, restored_generators
from refine_dagster.teams_rl.chain import Episodes, Evolver, Outcome, Seed
from refine_dagster.teams_rl.operations import EPISODE_LENGTH
from refine_dagster.teams_rl.policies import (
    FixedPolicy,
    InstructorForm,
    InstructorPolicy,
    RandomPolicy,
    RoundRobinPolicy,
    save_instructor,
)
from refine_dagster.teams_rl.reward import NoveltyReward, PaperReward, Reward
from refine_dagster.training.trainer_session import load_state, save_state

if TYPE_CHECKING:
    from refine_dagster.teams_rl.environment import VectorEnvironment


STATE_FILE = "instructor.pt"
Collapse = Literal["diversity", "operations"]


@dataclass(frozen=True)
class InstructorUpdate:
    """The figures of one update's episodes."""

    update: int
    steps: int  # so far
    reward: float
    valid_rate: float
    diversity: float  # Vendi score of the kept texts
    random_diversity: float  # the random policy's, in as many steps
    operation_entropy: float  # of the chosen operations, nats
    calls: int  # so far of executor and reviewer, the random policy's included
    warning: Collapse | None = None  # the guard's, after this update


def warning_of(updates: Sequence[InstructorUpdate], config: TeamsRLConfig) -> Collapse | None:
    """The guard's warning after the last of these updates, if any."""
    window = config.guard_window
    if len(updates) < 2 * window:
        return None
    first, last = updates[:window], updates[-window:]
    if fmean(row.operation_entropy for row in last) < config.min_operation_entropy:
        return "operations"
    rising = fmean(row.valid_rate for row in last) > fmean(row.valid_rate for row in first)
    narrow = fmean(row.diversity for row in last) < fmean(row.random_diversity for row in last)
    return "diversity" if rising and narrow else None


def guard_of(updates: Sequence[InstructorUpdate], config: TeamsRLConfig) -> Collapse | None:
    """The reason to end the training after these updates; None where it may continue."""
    last = updates[-(config.guard_patience + 1) :]
    if len(last) <= config.guard_patience or any(row.warning is None for row in last):
        return None
    return last[-1].warning


def operation_entropy(operations: Sequence[str]) -> float:
    """Entropy of how often each operation was chosen, nats.

    >>> operation_entropy(["breadth", "breadth"])
    0.0
    """
    counts = Counter(operations)
    shares = [count / len(operations) for count in counts.values()]
    return max(0.0, -sum(share * math.log(share) for share in shares))


@dataclass(frozen=True)
class InstructorTask:
    """The arguments of a training."""

    seeds: Sequence[Seed]
    evolver: Evolver
    embedding: Embedding
    config: TeamsRLConfig
    run_seed: str
    out: Path
    resume: Path | None = None  # folder for the state of an unfinished training
    guarded: bool = True  # whether the guard may end the training; it warns in any case


@dataclass(frozen=True)
class InstructorTraining:
    """A training's updates, in order, and what ended it."""

    updates: list[InstructorUpdate]
    ended_by: Collapse | Literal["updates"] = "updates"


@dataclass(frozen=True)
class Reference:
    """A random policy's mean Vendi score over an update's number of steps, and its calls."""

    diversity: float
    calls: int


def untrained_policy(config: TeamsRLConfig, run_seed: str) -> InstructorPolicy | None:
    """The policy of an algorithm that learns nothing; None where one has to be trained."""
    if config.algorithm == "random":
        return RandomPolicy(run_seed, config.operations)
    if config.algorithm == "round_robin":
        return RoundRobinPolicy(config.operations)
    if config.algorithm == "fixed":
        return FixedPolicy(config.fixed_operation, config.operations)
    return None


def train_instructor(task: InstructorTask) -> InstructorTraining:
    """Train and save an instructor (`policies.load_instructor` reads it)."""
    config = task.config
    learner = Instructor(task)
    learner.load_state()
    ended_by = _ended_by(learner, task)
    with progress.task("instructor", total=config.updates) as advance:
        if learner.updates:
            advance(len(learner.updates), reward=learner.updates[-1].reward)
        while ended_by is None and len(learner.updates) < config.updates:
            row = learner.update()
            advance(1, reward=row.reward, valid=row.valid_rate, diversity=row.diversity)
            ended_by = _ended_by(learner, task)
            if row.update % config.save_every == 0:
                learner.save_state()
    learner.save(task.out)
    return InstructorTraining(learner.updates, ended_by or "updates")


class Instructor:
    """An instructor in training: its network, its environments and its updates so far."""

    def __init__(self, task: InstructorTask) -> None:
        # The library draws random numbers while it is imported.
        with _generators(task.run_seed, "import"):
            from stable_baselines3.common.logger import Logger

            from refine_dagster.teams_rl.environment import Setting, VectorEnvironment

        config = task.config
        self._task = task
        self._reward: Reward = PaperReward()
        if config.reward != "paper":
            self._reward = NoveltyReward(task.embedding, config.archive, config.call_cost)
        played = task.seeds, task.evolver, self._reward, task.embedding
        setting = Setting(*played, config.observation, task.run_seed, config.operations)
        self._environment = VectorEnvironment(setting, config.environments)
        with _generators(task.run_seed, "weights"):
            self._model = _algorithm(self._environment, config)
        # The library's own would make a folder for its files in every update.
        self._model.set_logger(Logger(folder=None, output_formats=[]))
        self.updates: list[InstructorUpdate] = []
        self._reference: Reference | None = None

    def update(self) -> InstructorUpdate:
        """Play `episodes_per_update` rounds of episodes and learn from them."""
        config, number = self._task.config, len(self.updates) + 1
        if self._reference is None:
            self._reference = random_reference(self._task)
        # The library continues where the last call stopped: at the first step of a new round.
        with _generators(self._task.run_seed, "update", number):
            self._model.learn(_steps(config), reset_num_timesteps=False, log_interval=None)
        outcomes = self._environment.take_outcomes()
        before = self.updates[-1].calls if self.updates else self._reference.calls
        row = InstructorUpdate(
            update=number,
            steps=number * _steps(config),
            reward=fmean(self._model.rollout_buffer.rewards.astype(float).reshape(-1).tolist()),
            valid_rate=fmean(outcome.kept for outcome in outcomes),
            diversity=_diversity(outcomes, self._task.embedding),
            random_diversity=self._reference.diversity,
            operation_entropy=operation_entropy([outcome.operation for outcome in outcomes]),
            calls=before + sum(outcome.calls for outcome in outcomes),
        )
        self.updates.append(row)
        self.updates[-1] = replace(row, warning=warning_of(self.updates, config))
        return self.updates[-1]

    def save(self, folder: Path) -> None:
        config = self._task.config
        embedding = self._task.embedding.name
        form = InstructorForm(
            config.algorithm, config.observation, embedding, config.hidden, config.operations
        )
        weights = {
            name: weight.detach().cpu().numpy()
            for name, weight in self._model.policy.state_dict().items()
        }
        save_instructor(form, weights, folder)

    def save_state(self) -> None:
        state = {
            "policy": self._model.policy.state_dict(),
            "optimiser": self._model.policy.optimizer.state_dict(),
            "archive": self._reward.state(),
            "reference": asdict(self._reference) if self._reference else None,
            "updates": [asdict(row) for row in self.updates],
        }
        save_state(self._task.resume, STATE_FILE, state)

    def load_state(self) -> None:
        state = load_state(self._task.resume, STATE_FILE)
        if state is None:
            return
        self._model.policy.load_state_dict(state["policy"])
        self._model.policy.optimizer.load_state_dict(state["optimiser"])
        self._reward.restore(state["archive"])
        self._reference = Reference(**state["reference"]) if state["reference"] else None
        self.updates = [InstructorUpdate(**row) for row in state["updates"]]
        # The first call of `learn` resets the environments, which begins this round.
        self._environment.go_to(len(self.updates) * self._task.config.episodes_per_update)


def random_reference(task: InstructorTask) -> Reference:
    """Let a random policy play the episodes of `reference_updates` updates."""
    config = task.config
    policy = RandomPolicy(f"{task.run_seed}/reference", config.operations)
    episodes = Episodes(task.seeds, f"{task.run_seed}/reference")
    size = config.environments * config.episodes_per_update
    scores, calls = [], 0
    for number in range(config.reference_updates):
        chains = [episodes.chain(number * size + index) for index in range(size)]
        outcomes: list[Outcome] = []
        for _ in range(EPISODE_LENGTH):
            step = task.evolver.step(chains, policy.choose(chains))
            outcomes += step
            chains = [outcome.after() for outcome in step]
        scores.append(_diversity(outcomes, task.embedding))
        calls += sum(outcome.calls for outcome in outcomes)
    return Reference(fmean(scores), calls)


def updates_calls(updates: Sequence[InstructorUpdate], config: TeamsRLConfig) -> tuple[int, int]:
    """Rewrites and reviews of a training, the random reference's included."""
    if not updates:
        return 0, 0
    rewrites = updates[-1].steps + config.reference_updates * _steps(config)
    return rewrites, updates[-1].calls - rewrites


def _ended_by(learner: Instructor, task: InstructorTask) -> Collapse | None:
    return guard_of(learner.updates, task.config) if task.guarded else None


def _diversity(outcomes: Sequence[Outcome], embedding: Embedding) -> float:
    return vendi_score(embedding.embed([outcome.text for outcome in outcomes if outcome.kept]))


def _steps(config: TeamsRLConfig) -> int:
    """Steps of an update."""
    return config.environments * config.episodes_per_update * EPISODE_LENGTH


def _algorithm(environment: VectorEnvironment, config: TeamsRLConfig) -> Any:
    """The library's algorithm; torch's generator gives its first weights."""
    steps, most = _steps(config), config.minibatch
    shared: dict[str, Any] = {
        "learning_rate": config.learning_rate,
        "n_steps": config.episodes_per_update * EPISODE_LENGTH,
        # Minibatches of an update are equal.
        "batch_size": max(n for n in range(1, min(steps, most) + 1) if steps % n == 0),
        "gamma": config.discount,
        "gae_lambda": config.gae_lambda,
        "policy_kwargs": {"net_arch": list(config.hidden)},
        "device": "cpu",
        "verbose": 0,
    }
    if config.algorithm == "trpo":
        from sb3_contrib import TRPO

        return TRPO(
            "MlpPolicy", environment, target_kl=config.max_kl, cg_damping=config.damping, **shared
        )
    if config.algorithm != "ppo":
        raise ValueError(f"{config.algorithm} is not trained")
    from stable_baselines3 import PPO

    return PPO(
        "MlpPolicy",
        environment,
        n_epochs=config.epochs,
        clip_range=config.clip_range,
        ent_coef=config.entropy_coefficient,
        **shared,
    )


@contextmanager
def _generators(run_seed: str, *name: str | int) -> Iterator[None]:
    """Seed the global generators by `run_seed` and `name`; restore their states at the end."""
    import numpy
    import torch

    seed = request_seed(run_seed, "instructor", *name) >> 31
    with restored_generators(cards=False):
        torch.manual_seed(seed)
        numpy.random.seed(seed)
        random.seed(seed)
        yield
