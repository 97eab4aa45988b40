"""A judge on a base model that stays as it is: fitted to features, small, each text read alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.hashing import folder_files
from refine_dagster.judge.corruptions import DIMENSIONS
from refine_dagster.judge.frozen import judge_quality, train_judge
from refine_dagster.judge.judge import Judge, loaded_judge
from refine_dagster.judge.network import JudgeError
from refine_dagster.judge.quality import MeasuredJudge
from refine_dagster.judge.training import split_examples
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, resolve_model
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from tests.builders.fake_judge import accuracy_of

SEEDS = [task.example for task in primer_tasks(90, 5)]
CONFIG = JudgeConfig(
    backbone="frozen",
    primer_tasks=0,
    on_policy_negatives=4,
    steps=40,
    held_out_share=0.25,
    frozen_texts=400,
)


@pytest.fixture(scope="module")
def trained(
    base: ModelRef, device: Device, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, MeasuredJudge]:
    out = tmp_path_factory.mktemp("judge") / "folder"
    return out, train_judge(base, SEEDS, CONFIG, out, device, "seed")


@pytest.fixture(scope="module")
def judge(trained: tuple[Path, MeasuredJudge], base: ModelRef, device: Device) -> Iterator[Judge]:
    with loaded_judge(trained[0], device, base) as loaded:
        yield loaded


def test_beats_chance_on_seeds_it_never_saw(trained: tuple[Path, MeasuredJudge]) -> None:
    for part in (*DIMENSIONS, "reward_model"):
        assert accuracy_of(trained[1].accuracies, part) > 0.55, part


def test_the_folder_holds_outputs_and_no_model(trained: tuple[Path, MeasuredJudge]) -> None:
    folder, measured = trained
    assert folder_files(folder).keys() == {"heads.safetensors", "judge.json"}
    card = json.loads((folder / "judge.json").read_text("utf-8"))
    assert card["backbone"] == "frozen"
    # Of both numbers of texts: at most one group more than is allowed.
    assert measured.held_out_examples < CONFIG.frozen_texts / 4 + 20


def test_training_twice_gives_the_same_judge(
    trained: tuple[Path, MeasuredJudge], base: ModelRef, device: Device, tmp_path: Path
) -> None:
    again = train_judge(base, SEEDS[::-1], CONFIG, tmp_path / "judge", device, "seed")
    assert again == trained[1]


def test_a_score_does_not_depend_on_what_else_is_scored(judge: Judge) -> None:
    examples = [*SEEDS[:30], Example("Say it.", "", "word " * 80)]
    together = judge.score(examples)
    assert together == judge.score(examples[::-1])[::-1]
    for example, scores in list(zip(examples, together, strict=True))[::6]:
        assert judge.score([example]) == [scores]


def test_quality_is_measured_on_held_out_seeds(judge: Judge) -> None:
    _, testing = split_examples(SEEDS, CONFIG, "seed")
    quality = judge_quality(judge, SEEDS, CONFIG, "seed")
    auc = {one.dimension: one for one in quality.measures if one.measure == "auc"}
    assert auc.keys() == {*DIMENSIONS, "reward_model"}
    assert all(len(testing) < one.examples <= 4 * len(testing) for one in auc.values())
    assert auc["naturalness"].value > 0.6


def test_another_base_model_is_refused(
    trained: tuple[Path, MeasuredJudge], writing_model_folder: Path, device: Device
) -> None:
    other = resolve_model(str(writing_model_folder))
    with (
        pytest.raises(JudgeError, match="another base model"),
        loaded_judge(trained[0], device, other),
    ):
        pass
