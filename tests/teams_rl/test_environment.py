"""The environments keep gymnasium's and stable-baselines3's promises, and step in lock-step."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import numpy as np
import pytest

from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.teams_rl.chain import (
    Chain,
    Episodes,
    Evolver,
    Execution,
    Seed,
    observation_size,
    observe,
)
from refine_dagster.teams_rl.environment import (
    InstructionEnvironment,
    Setting,
    VectorEnvironment,
)
from refine_dagster.teams_rl.operations import EPISODE_LENGTH, NAMES, Operation
from refine_dagster.teams_rl.reward import NoveltyReward, PaperReward
from template_executor import RuleReviewer, TemplateExecutor

SEEDS = [
    Seed(f"seed_{number}", text)
    for number, text in enumerate(
        (
            "Sort these words in alphabetical order.",
            "Describe a storm in a few words.",
            "Write a thank you note to a music teacher.",
            "How many words does the following text have?",
            "Name a sport that is played with a racket.",
        )
    )
]


class CountingExecutor(TemplateExecutor):
    """Remembers how many chains came in each call."""

    def __init__(self, run_seed: str) -> None:
        super().__init__(run_seed)
        self.batches: list[int] = []

    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        self.batches.append(len(chains))
        return super().execute(chains, operations)


def setting(mode: Literal["paper", "rich"], executor: TemplateExecutor | None = None) -> Setting:
    embedding = HashedEmbedding(32)
    reward = PaperReward() if mode == "paper" else NoveltyReward(embedding, 64)
    evolver = Evolver(executor or TemplateExecutor("t"), RuleReviewer())
    return Setting(SEEDS, evolver, reward, embedding, mode, "salt")


@pytest.mark.parametrize("mode", ["paper", "rich"])
def test_both_checkers_pass(mode: Literal["paper", "rich"]) -> None:
    from gymnasium.utils.env_checker import check_env as gymnasium_check
    from stable_baselines3.common.env_checker import check_env as baselines_check

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # A plain object has no registered spec; the checker says so and goes on.
        warnings.filterwarnings("ignore", message=".*not have a spec.*|.*spec.*")
        gymnasium_check(InstructionEnvironment(setting(mode)), skip_render_check=True)
        baselines_check(InstructionEnvironment(setting(mode)))


def test_an_episode_has_six_steps_and_a_fresh_seed() -> None:
    environment = InstructionEnvironment(setting("rich"))
    started = []
    for _ in range(len(SEEDS)):
        _, info = environment.reset()
        started.append(info["seed_id"])
        over = [environment.step(np.int64(step % len(NAMES)))[2] for step in range(EPISODE_LENGTH)]
        assert over == [False] * (EPISODE_LENGTH - 1) + [True]
    assert sorted(started) == [seed.seed_id for seed in SEEDS]


def test_observations_say_what_they_promise() -> None:
    embedding = HashedEmbedding(32)
    chain = Chain("s", 0, "Describe a storm.", ("deepening", "deepening", "complicate_input"))
    assert observe([chain], "paper", embedding).tolist() == [[0, 0, 0, 0, 0, 1]]
    assert observe([Chain("s", 0, "x")], "paper", embedding).sum() == 0
    rich = observe([chain], "rich", embedding)[0]
    assert rich.shape == (observation_size("rich", embedding),) == (39,)
    assert np.array_equal(rich[:32], embedding.embed(["Describe a storm."])[0])
    assert rich[32:].tolist() == pytest.approx([0, 0, 2 / 6, 0, 0, 1 / 6, 0.5])


def test_a_step_of_n_environments_is_one_batch() -> None:
    executor = CountingExecutor("t")
    environment = VectorEnvironment(setting("rich", executor), 4)
    assert environment.reset().shape == (4, 39)
    for step in range(EPISODE_LENGTH):
        environment.step_async(np.array([0, 1, 2, step % len(NAMES)]))
        observations, rewards, over, infos = environment.step_wait()
        assert over.all() == (step == EPISODE_LENGTH - 1)
    assert executor.batches == [4] * EPISODE_LENGTH
    assert rewards.shape == (4,)
    assert all("terminal_observation" in info for info in infos)
    # The next round has begun: nothing was applied to its chains.
    assert observations[:, 32:].sum() == 0
    assert len(environment.take_outcomes()) == 4 * EPISODE_LENGTH
    assert environment.take_outcomes() == []


def test_one_environment_alone_sees_what_it_sees_among_others() -> None:
    alone = VectorEnvironment(setting("paper"), 1)
    together = VectorEnvironment(setting("paper"), 3)
    for environment in (alone, together):
        environment.reset()
        for step in range(EPISODE_LENGTH):
            environment.step(np.full(environment.num_envs, step % len(NAMES)))
    ours = [outcome.text for outcome in alone.take_outcomes()]
    theirs = [o.text for o in together.take_outcomes() if o.before.episode == 0]
    assert ours == theirs


def test_a_pass_shows_every_seed_once_in_an_order_of_its_own() -> None:
    episodes = Episodes(SEEDS, "salt")
    passes = [[episodes.chain(5 * turn + place).seed_id for place in range(5)] for turn in range(6)]
    assert all(sorted(order) == [seed.seed_id for seed in SEEDS] for order in passes)
    assert len({tuple(order) for order in passes}) > 3
    backwards = Episodes(SEEDS[::-1], "salt")
    assert [backwards.chain(7).seed_id, backwards.chain(2).seed_id] == [passes[1][2], passes[0][2]]
