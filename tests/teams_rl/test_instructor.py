"""An instructor saves equal bytes, goes on after a kill, and is stopped when it collapses."""

from __future__ import annotations

import dataclasses
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.evaluation.diversity import HashedEmbedding
from refine_dagster.hashing import folder_files
from refine_dagster.teams_rl.chain import Chain, Evolver, Execution, observe
from refine_dagster.teams_rl.instructor import (
    Instructor,
    InstructorTask,
    train_instructor,
    untrained_policy,
)
from refine_dagster.teams_rl.operations import NAMES, Operation
from refine_dagster.teams_rl.policies import InstructorError, load_instructor
from template_executor import RuleReviewer, TemplateExecutor
from tests.builders.packaged_seeds import packaged_seeds

EMBEDDING = HashedEmbedding(64)
SMALL = TeamsRLConfig(
    environments=6, episodes_per_update=2, minibatch=36, updates=4, save_every=1, archive=100
)


class KilledError(Exception):
    """Stands for SIGKILL."""


class MortalExecutor(TemplateExecutor):
    """Dies once its lives are spent; an execution of a batch costs one."""

    lives = 0

    def execute(self, chains: Sequence[Chain], operations: Sequence[Operation]) -> list[Execution]:
        self.lives -= 1
        if self.lives < 0:
            raise KilledError
        return super().execute(chains, operations)


def task(folder: Path, config: TeamsRLConfig = SMALL, **changes: object) -> InstructorTask:
    made = InstructorTask(
        seeds=packaged_seeds()[:40],
        evolver=Evolver(TemplateExecutor("t"), RuleReviewer()),
        embedding=EMBEDDING,
        config=config,
        run_seed="salt",
        out=folder,
    )
    return dataclasses.replace(made, **changes)  # type: ignore[arg-type]


def _numpy_state() -> str:
    return str(np.random.get_state(legacy=False))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_equal_arguments_give_equal_bytes_and_leave_no_trace(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    config = SMALL.model_copy(update={"algorithm": algorithm, "updates": 2})
    # It draws a number while it is imported, which a progress bar does.
    import_module("rich.style")
    states = random.getstate(), _numpy_state(), torch.get_rng_state()
    first = train_instructor(task(tmp_path / "a", config))
    assert random.getstate() == states[0]
    assert _numpy_state() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    np.random.seed(7)
    torch.manual_seed(7)
    second = train_instructor(task(tmp_path / "b", config))
    assert first == second
    assert folder_files(tmp_path / "a") == folder_files(tmp_path / "b")
    other = train_instructor(task(tmp_path / "c", config, run_seed="other"))
    assert other.updates != first.updates
    assert [one.name for one in temporary.iterdir() if one.name.startswith("SB3")] == []


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_a_killed_training_ends_as_an_undisturbed_one(algorithm: str, tmp_path: Path) -> None:
    config = SMALL.model_copy(update={"algorithm": algorithm})
    whole = train_instructor(task(tmp_path / "whole", config))
    executor = MortalExecutor("t")
    evolver = Evolver(executor, RuleReviewer())
    # The reference takes 30 steps and an update 12: this is in the third update.
    executor.lives = 30 + 2 * 12 + 5
    killed = task(tmp_path / "killed", config, evolver=evolver, resume=tmp_path / "resume")
    with pytest.raises(KilledError):
        train_instructor(killed)
    assert not (tmp_path / "killed").exists()
    # Two of four updates were saved; only two more are played.
    executor.lives = 2 * 12
    again = train_instructor(killed)
    assert executor.lives == 0
    assert again == whole
    assert folder_files(tmp_path / "killed") == folder_files(tmp_path / "whole")


@pytest.mark.slow
def test_the_saved_network_is_the_librarys_own(tmp_path: Path) -> None:
    import torch

    learner = Instructor(task(tmp_path))
    learner.update()
    learner.save(tmp_path / "saved")
    policy = load_instructor(tmp_path / "saved", EMBEDDING, "s")
    chains = [
        Chain("a", 0, "Describe a storm."),
        Chain("b", 1, "Sort the words.", ("constraints", "reasoning")),
    ]
    ours = policy.probabilities(chains)
    seen = torch.from_numpy(observe(chains, "rich", EMBEDDING))
    with torch.no_grad():
        library = learner._model.policy.get_distribution(seen).distribution.probs.numpy()
    assert ours == pytest.approx(library, abs=1e-5)
    assert ours.sum(axis=1) == pytest.approx([1.0, 1.0])
    assert (policy.probabilities(chains[1:])[0] == ours[1]).all()
    assert policy.choose(chains) == policy.choose(chains)


@pytest.mark.slow
def test_an_instructor_of_other_operations_chooses_among_those_alone(tmp_path: Path) -> None:
    operations = ("reasoning", "constraints", "breadth")
    config = TeamsRLConfig(
        operations=operations, environments=2, reference_updates=1, embedding_dimensions=64
    )
    assert config.model_dump()["operations"] == operations
    assert "operations" not in TeamsRLConfig(operations=NAMES).model_dump()
    learner = Instructor(task(tmp_path, config))
    learner.update()
    learner.save(tmp_path / "saved")
    policy = load_instructor(tmp_path / "saved", EMBEDDING, "s")
    chains = [Chain(f"s{n}", n, "x", ("reasoning",) * (n % 6)) for n in range(60)]
    assert policy.probabilities(chains).shape == (60, 3)
    assert set(policy.choose(chains)) == set(operations)
    randomly = untrained_policy(config.model_copy(update={"algorithm": "random"}), "s")
    assert randomly
    assert set(randomly.choose(chains)) == set(operations)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"operations": ["breadth", "breadth"]}, "operations has a name twice"),
        ({"operations": []}, "at least 1 item"),
        ({"operations": ["breath"]}, "no operation is called 'breath'; known: breadth, "),
        ({"operations": ["reasoning"], "algorithm": "fixed"}, "'breadth' is not in operations"),
    ],
)
def test_operations_that_cannot_be_are_refused(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        TeamsRLConfig.model_validate(settings)


def test_an_instructor_of_another_form_is_refused(tmp_path: Path) -> None:
    learner = Instructor(task(tmp_path))
    learner.save(tmp_path / "saved")
    with pytest.raises(InstructorError, match="other embedding"):
        load_instructor(tmp_path / "saved", HashedEmbedding(32), "s")
    with pytest.raises(InstructorError, match="cannot be read"):
        load_instructor(tmp_path / "nowhere", EMBEDDING, "s")


@pytest.mark.slow
def test_the_reviewers_reward_alone_collapses_and_is_stopped(tmp_path: Path) -> None:
    config = TeamsRLConfig(reward="paper", updates=120, embedding_dimensions=64, guard_patience=3)
    training = train_instructor(task(tmp_path, config, seeds=packaged_seeds()))
    assert training.ended_by in ("diversity", "operations")
    assert len(training.updates) < 120
    last = training.updates[-1]
    assert last.valid_rate > training.updates[0].valid_rate
    assert last.diversity < last.random_diversity


def test_policies_that_learn_nothing_are_named_by_the_profile() -> None:
    named = {
        name: untrained_policy(TeamsRLConfig.model_validate({"algorithm": name}), "s")
        for name in ("random", "round_robin", "fixed", "ppo")
    }
    assert named["ppo"] is None
    chains = [Chain(f"s{n}", n, "x", ("breadth",) * (n % 6)) for n in range(600)]
    random_policy, round_robin, fixed = named["random"], named["round_robin"], named["fixed"]
    assert random_policy
    assert round_robin
    assert fixed
    counts = Counter(random_policy.choose(chains))
    assert min(counts[name] for name in NAMES) > 60
    turns = round_robin.choose([Chain("s", 2, "x", ("breadth",) * n) for n in range(6)])
    first = NAMES.index(turns[0])
    assert turns == [NAMES[(first + n) % 6] for n in range(6)]
    assert set(fixed.choose(chains)) == {"breadth"}
    assert len({policy.version for policy in (random_policy, round_robin, fixed)}) == 3
