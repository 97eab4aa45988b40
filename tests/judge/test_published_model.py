"""The published judge is a `Judge`: four scores of an example, named by what decides them."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.config.profile import load_profile
from refine_dagster.home import Home
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.published import (
    PublishedJudge,
    find_published_models,
    loaded_published_judge,
    measure_published_judge,
    published_fingerprint,
)
from refine_dagster.judge.published_model import (
    PublishedModelError,
    loaded_reward_model,
    loaded_unieval,
)
from refine_dagster.judge.training import is_held_out, split_examples
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import resolve_model
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from refine_dagster.run import RunFailedError, run_pipeline
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.warehouse import Warehouse
from resources.models import JudgeResource
from tests.builders.fake_judge import accuracy_of
from tests.builders.published_judges import write_reward_model, write_unieval

TRIPLES = [
    Example("Name a fruit.", "", "a pear"),
    Example("Count the words.", "one two three", "three"),
    Example("Name a fruit.", "", "a pear"),
    Example("Write about the sea.", "", "the boat goes on the sea"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> JudgeConfig:
    folder = tmp_path_factory.mktemp("published")
    return JudgeConfig(
        kind="published",
        unieval=str(write_unieval(folder / "unieval")),
        reward_model=str(write_reward_model(folder / "reward_model")),
        primer_tasks=20,
        score_batch_size=8,
        unieval_max_tokens=96,
        reward_model_max_tokens=96,
    )


def test_scores_are_the_parts_of_both_models(config: JudgeConfig, device: Device) -> None:
    models = find_published_models(config)
    with loaded_published_judge(models, config, device) as judge:
        scores = judge.score(TRIPLES)
        assert judge.score(TRIPLES[:1]) == scores[:1]
        assert judge.score([]) == []
    assert scores[0] == scores[2]
    assert scores[0] != scores[1]
    with loaded_unieval(models.unieval, device, 8, 96) as unieval:
        for example, found in zip(TRIPLES, scores, strict=True):
            natural, coherent, understood = unieval.score(unieval.questions(example))
            assert found["naturalness"] == round(natural, 6)
            assert found["coherence"] == round(coherent, 6)
            assert found["understandability"] == round(understood, 6)
    with loaded_reward_model(models.reward_model, device, 8, 96) as reward_model:
        rewards = reward_model.score([reward_model.conversation(example) for example in TRIPLES])
    assert [found["reward_model"] for found in scores] == [round(one, 6) for one in rewards]


def test_fingerprint_names_what_decides_the_scores(config: JudgeConfig, tmp_path: Path) -> None:
    names = [
        published_fingerprint(find_published_models(one), one)
        for one in (
            config,
            config.model_copy(update={"unieval": str(write_unieval(tmp_path / "u", seed=4))}),
            config.model_copy(update={"reward_model": str(write_reward_model(tmp_path / "r", 4))}),
            config.model_copy(update={"unieval_max_tokens": 97}),
            config.model_copy(update={"reward_model_max_tokens": 97}),
        )
    ]
    assert len(set(names)) == len(names)
    assert all(len(name) == 64 for name in names)
    # Config of training, and where the same files lie, decide nothing.
    same = config.model_copy(
        update={"unieval": str(write_unieval(tmp_path / "moved")), "learning_rate": 1.0}
    )
    assert published_fingerprint(find_published_models(same), same) == names[0]


def test_measured_on_what_the_offline_judge_is_tested_on(
    config: JudgeConfig, device: Device
) -> None:
    seeds = [task.example for task in primer_tasks(30, 5)]
    training, testing = split_examples(seeds, config, "salt")
    assert 0 < len(testing) < 50
    assert (training, testing) == split_examples(seeds[::-1], config, "salt")
    assert all(is_held_out(example, config.held_out_share, "salt") for example in testing)
    models = find_published_models(config)
    measure = measure_published_judge(models, seeds, config, device, "salt")
    assert measure.fingerprint == published_fingerprint(models, config)
    assert measure.held_out_examples > len(testing)
    for output in ("naturalness", "coherence", "understandability", "reward_model"):
        assert 0 <= accuracy_of(measure.accuracies, output) <= 1
    with pytest.raises(JudgeError, match="none is held out"):
        measure_published_judge(
            models, [], config.model_copy(update={"primer_tasks": 0}), device, "salt"
        )


def test_memory_of_both_models_is_given_back(config: JudgeConfig, device: Device) -> None:
    with loaded_published_judge(find_published_models(config), config, device) as judge:
        assert isinstance(judge, PublishedJudge)
        models = [weakref.ref(judge._unieval.model), weakref.ref(judge._reward_model.model)]
        assert all(model() is not None for model in models)
    gc.collect()
    assert [model() for model in models] == [None, None]


def test_another_judge_than_the_recorded_one_is_refused(
    config: JudgeConfig, tiny_model_folder: Path, device: Device, tmp_path: Path
) -> None:
    models = find_published_models(config)
    base = resolve_model(str(tiny_model_folder))
    row = {"kind": "published", "fingerprint": "0" * 64, "checkpoint_hash": None}
    profile = load_profile("offline", environment={}).model_copy(update={"judge": config})
    checkpoints = CheckpointStore(tmp_path)
    with (
        pytest.raises(JudgeError, match="have changed since feedback_judge"),
        JudgeResource().session(row, checkpoints, device, profile, base),
    ):
        pass
    row["fingerprint"] = published_fingerprint(models, config)
    with JudgeResource().session(row, checkpoints, device, profile, base) as feedback:
        assert feedback.judge.fingerprint == row["fingerprint"]


def test_missing_models_name_their_config_field(config: JudgeConfig, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("unieval", "reward_model"):
        empty = config.model_copy(update={name: str(tmp_path / "empty")})
        with pytest.raises(
            PublishedModelError, match=rf"config field judge\.{name} .*missing: .*weights"
        ):
            find_published_models(empty)
        absent = config.model_copy(update={name: str(tmp_path / "absent")})
        with pytest.raises(
            PublishedModelError, match=rf"config field judge\.{name} .*no such folder"
        ):
            find_published_models(absent)


def test_gpu_profile_takes_the_published_judges() -> None:
    judge = load_profile("gpu", environment={}).judge
    assert judge.kind == "published"
    assert judge.unieval == "MingZhong/unieval-dialog"
    assert judge.reward_model == "OpenAssistant/oasst-rm-2.1-pythia-1.4b-epoch-2.5"
    assert load_profile("offline", environment={}).judge.kind == "offline"


def test_asset_measures_and_trains_nothing(
    config: JudgeConfig, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    overrides = {
        "base_model.id": str(tiny_model_folder),
        "device.device": "cpu",
        "device.threads": 1,
        "judge.kind": "published",
        "judge.unieval": config.unieval,
        "judge.reward_model": config.reward_model,
        "judge.primer_tasks": 0,
        "judge.held_out_share": 0.1,
        "judge.unieval_max_tokens": 96,
        "judge.reward_model_max_tokens": 96,
    }
    _materialise(home, overrides)
    first = Warehouse(home.warehouse).read("feedback_judge").to_dicts()
    assert [row["kind"] for row in first] == ["published"]
    assert first[0]["checkpoint_hash"] is None
    assert first[0]["parents"] == []
    held_out = load_profile("offline", overrides, {}).judge
    assert first[0]["fingerprint"] == published_fingerprint(
        find_published_models(held_out), held_out
    )
    accuracies = Warehouse(home.warehouse).read("feedback_judge_accuracy").to_dicts()
    assert {row["dimension"] for row in accuracies} == {
        "naturalness",
        "coherence",
        "understandability",
        "reward_model",
    }
    assert {one["role"] for one in accuracies[0]["parents"]} == {"judge", "tested_on"}
    assert not (home.checkpoints / "feedback_judge").exists()
    # With the same files nothing is measured again.
    monkeypatch.delattr("refine_dagster.stages.published.measure_published_judge")
    _materialise(home, overrides)
    last = Warehouse(home.warehouse).last_record("feedback_judge")
    assert last is not None
    assert last.inputs["file:unieval"] == resolve_model(config.unieval).fingerprint
    assert Warehouse(home.warehouse).read("feedback_judge").to_dicts() == first


def _materialise(home: Home, overrides: dict[str, object]) -> None:
    """The seeds, the base model and the judge; an untrained judge may fail checks of its worth."""
    try:
        run_pipeline(home, "offline", overrides, "+feedback_judge")
    except RunFailedError as error:
        if not error.what.startswith("checks failed: feedback_judge: judge_"):
            raise
