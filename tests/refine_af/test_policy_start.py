"""The start of a policy: prompts show no demonstrations, and rows reach the seeds through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from refine_dagster import stages
from refine_dagster.config.dataset import InstanceConfig, SelectionConfig
from refine_dagster.config.learning import ReinforcementConfig, RewardConfig, SupervisedConfig
from refine_dagster.generation.completions import CompletionsStore
from refine_dagster.generation.request import Request
from refine_dagster.hashing import content_id
from refine_dagster.models.language_model import ModelRef
from refine_dagster.prompts.example import instance_prompt
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.runtime import Model, Runtime
from refine_dagster.warehouse.checkpoints import hash_manifest
from refine_dagster.warehouse.rows import Row
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.fake_models import FakeTraining, fake_runtime
from tests.builders.rows import row, seed_row
from tests.builders.warehouse import new_warehouse

SEEDS = [seed_row("colour", "Name a colour.", output="red"), seed_row("fruit")]
JUDGE = row("feedback_judge", fingerprint="judge")
STARTED = InstanceConfig(start_steps=3)


def instruction(text: str) -> Row:
    return row("filtered_instructions", instruction=text, slot=text)


POOL = [instruction("Name a bird."), instruction("Name a tree."), instruction("Name a town.")]


@dataclass
class World:
    """Models that answer all alike, what they were asked, and what trainings were made from."""

    runtime: Runtime
    asked: list[Request]
    manifests: dict[str, Mapping[str, Any]]
    feedback: Feedback = field(
        default_factory=lambda: Feedback(
            FakeJudge(lambda example: scores_of(0.5, 0.5)), PRESETS["refine_af"], -1.0
        )
    )
    base: Model = field(
        default_factory=lambda: Model(
            ModelRef("models/small", content_id("fingerprint", "small")),
            "base_model",
            row("base_model", fingerprint="small"),
        )
    )


@pytest.fixture
def world(tmp_path: Path) -> World:
    asked: list[Request] = []
    manifests: dict[str, Mapping[str, Any]] = {}

    class Recorded(FakeTraining):
        def train_or_reuse(self, asset: str, manifest: Mapping[str, Any], train: Any) -> Any:
            manifests[asset] = manifest
            return super().train_or_reuse(asset, manifest, train)

    def answer(model: ModelRef, request: Request) -> str:
        asked.append(request)
        return " <noinput>\nOutput: a thing"

    store = CompletionsStore(new_warehouse(tmp_path / "warehouse.duckdb"), "run")
    checkpoints = Recorded(tmp_path / "checkpoints")
    return World(fake_runtime("seed", checkpoints, store, answer), asked, manifests)


def refined(world: World, start: Model, config: InstanceConfig) -> Model:
    reinforcement, reward = ReinforcementConfig(steps=2), RewardConfig()
    given = start, POOL, SEEDS, JUDGE, world.feedback, reinforcement, reward, config
    return stages.refine_policy(*given, world.runtime).model


def test_with_a_start_no_prompt_shows_a_demonstration(world: World) -> None:
    start = stages.start_policy(world.base, SEEDS, STARTED, SupervisedConfig(), world.runtime)
    policy = refined(world, start.model, STARTED)
    given = policy, POOL, SEEDS, world.feedback, STARTED, world.runtime
    stages.write_instances(*given)
    prompts = {instance_prompt(one["instruction"], []) for one in POOL}
    assert {request.prompt for request in world.asked} == prompts
    assert set(world.manifests["rl_policy_checkpoint"]["prompts"]) < prompts


def test_rows_reach_the_seeds_through_the_start(world: World) -> None:
    start = stages.start_policy(world.base, SEEDS, STARTED, SupervisedConfig(), world.runtime)
    model, [judge] = start.model, [JUDGE]
    written = stages.write_instances(model, POOL, SEEDS, world.feedback, STARTED, world.runtime)
    table = "reward_scored_instructions"
    rows = stages.select(table, written, model, judge, SelectionConfig()).tables[table]
    for made in rows:
        assert made["policy"] == model.row["fingerprint"] == model.ref.fingerprint
        assert {(one["asset"], one["role"]) for one in made["parents"]} == {
            ("filtered_instructions", "instruction"),
            ("policy_start", "policy"),
            ("feedback_judge", "judge"),
        }
    named = {(one["asset"], one["row_id"], one["role"]) for one in model.row["parents"]}
    assert named == {
        ("base_model", world.base.row["row_id"], "base"),
        *(("seed_tasks", seed["row_id"], "trained_on") for seed in SEEDS),
    }
    assert {one["step"] for one in start.tables["policy_start_steps"]} == {1, 2}
    begun_as = [
        one for one in refined(world, model, STARTED).row["parents"] if one["role"] == "base"
    ]
    assert [one["asset"] for one in begun_as] == ["policy_start"]


def test_a_start_is_a_function_of_steps_and_seeds(world: World) -> None:
    def manifest(config: InstanceConfig, seeds: list[Row]) -> str:
        stages.start_policy(world.base, seeds, config, SupervisedConfig(), world.runtime)
        return hash_manifest(world.manifests["policy_start"])

    first = manifest(STARTED, SEEDS)
    assert manifest(STARTED.model_copy(update={"temperature": 0.1}), SEEDS[::-1]) == first
    assert manifest(InstanceConfig(start_steps=4), SEEDS) != first
    assert manifest(STARTED, SEEDS[:1]) != first


def test_without_a_start_requests_and_manifests_are_those_of_before_it(world: World) -> None:
    config = InstanceConfig()
    names = ("demonstrations", "max_demonstration_tokens", "temperature", "top_p", "max_new_tokens")
    assert tuple(config.model_dump()) == tuple(config.model_dump(mode="json")) == names
    refined(world, world.base, config)
    assert all("a pear" in request.prompt for request in world.asked)
    keys = sorted({request.key(world.base.ref.fingerprint) for request in world.asked})
    # Hashes from before there was a start.
    assert content_id("keys", keys) == "f7f1e2a5572e8cf0ef6fdb3924ff2950"
    assert hash_manifest(world.manifests["rl_policy_checkpoint"]) == (
        "77f76f7a85de139c804708a264c2327e13718dceeb4d7885dcb1db8ed18ce7d7"
    )
