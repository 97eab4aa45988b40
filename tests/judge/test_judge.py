"""The offline judge learns from corruptions, is the same twice, and scores each example alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.hashing import folder_files
from refine_dagster.judge.corruptions import DIMENSIONS, KINDS
from refine_dagster.judge.judge import LENGTHS, Judge, Scores, loaded_judge
from refine_dagster.judge.network import JudgeError, read_network
from refine_dagster.judge.on_policy_negatives import answered_tasks, own_tasks
from refine_dagster.judge.quality import MeasuredJudge
from refine_dagster.judge.training import is_held_out, train_judge
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, loaded_model
from refine_dagster.models.padding import pass_length
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.prompts.example import Example
from tests.builders.fake_judge import accuracy_of

SEEDS = [task.example for task in primer_tasks(40, 5)]
CONFIG = JudgeConfig(
    primer_tasks=260, on_policy_negatives=80, steps=120, batch_size=32, learning_rate=5e-3
)
SMALL = JudgeConfig(primer_tasks=20, on_policy_negatives=12, steps=3, batch_size=8)


@pytest.fixture(scope="module")
def trained(
    base: ModelRef, device: Device, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, MeasuredJudge]:
    out = tmp_path_factory.mktemp("judge") / "folder"
    return out, train_judge(base, SEEDS, CONFIG, out, device, "salt")


@pytest.fixture(scope="module")
def judge(trained: tuple[Path, MeasuredJudge], base: ModelRef, device: Device) -> Iterator[Judge]:
    with loaded_judge(trained[0], device, base) as loaded:
        yield loaded


def test_beats_chance_on_tasks_it_never_saw(trained: tuple[Path, MeasuredJudge]) -> None:
    _, training = trained
    for output in (*DIMENSIONS, "reward_model"):
        assert accuracy_of(training.accuracies, output) > 0.55, output
    assert all(0 <= one.accuracy <= 1 and one.examples > 0 for one in training.accuracies)
    assert {one.chance for one in training.accuracies} == {0.5}


def test_accuracy_is_told_for_each_kind_and_what_it_harms(
    trained: tuple[Path, MeasuredJudge],
) -> None:
    _, training = trained
    names = [(one.dimension, one.corruption) for one in training.accuracies]
    assert len(names) == len(set(names))
    for dimension, kind in names:
        assert kind == "all" or dimension == "reward_model" or dimension in KINDS[kind].harms
    assert {kind for dimension, kind in names if dimension == "reward_model"} == {"all", *KINDS}
    assert training.held_out_examples > len(KINDS)


def test_garbled_text_scores_lower(judge: Judge) -> None:
    good = [Example("Write a sentence about the sea.", "", "The waves roll over the warm sand.")]
    worse = [Example(good[0].instruction, "", "sand the roll over waves warm The.")]
    (better,), (lower,) = judge.score(good), judge.score(worse)
    assert better["naturalness"] > lower["naturalness"]
    assert better["reward_model"] > lower["reward_model"]


def test_probabilities_are_bounded_by_understandability(judge: Judge) -> None:
    for one in judge.score(SEEDS):
        assert 0 <= one["naturalness"] <= one["understandability"] <= 1
        assert 0 <= one["coherence"] <= one["understandability"]


def test_a_score_does_not_depend_on_its_batch(judge: Judge) -> None:
    long = Example("Copy it.", " ".join(["word"] * 60), " ".join(["word"] * 60))
    examples = [*SEEDS, long, SEEDS[3]]
    together = judge.score(examples)
    alone = [judge.score([example])[0] for example in examples]
    assert together == alone
    assert judge.score(examples[::-1]) == together[::-1]
    assert judge.score([]) == []


def test_a_triple_longer_than_the_context_is_scored(judge: Judge) -> None:
    long = Example("Say it. " * 400, "deep sea " * 900, "blue sky " * 900)
    (found,) = judge.score([long])
    assert 0 <= found["naturalness"] <= 1


def test_a_long_triple_keeps_both_its_parts(
    trained: tuple[Path, MeasuredJudge], device: Device
) -> None:
    network = read_network(trained[0], device)
    long = Example("Say it. " * 400, "deep sea " * 900, "blue sky " * 900)
    for example in (
        long,
        Example("Say it.", "", long.output),
        Example("Say it.", long.input, "no"),
    ):
        encoded = network.encode(example)
        assert len(encoded.ids) == network.max_length
        assert 0 < encoded.given < encoded.response < network.max_length


@pytest.mark.parametrize(
    "example", [Example("", "", ""), Example("a", "b", ""), Example("é", "", "猫")]
)
def test_odd_triples_have_finite_scores(judge: Judge, example: Example) -> None:
    (found,) = judge.score([example])
    assert all(abs(value) < 1e3 for value in found.values())


def test_two_trainings_give_the_same_files_whatever_the_order_of_seeds(
    base: ModelRef, device: Device, tmp_path: Path
) -> None:
    first = train_judge(base, SEEDS, SMALL, tmp_path / "a", device, "salt")
    again = train_judge(base, SEEDS[::-1], SMALL, tmp_path / "b", device, "salt")
    other = train_judge(base, SEEDS, SMALL, tmp_path / "c", device, "pepper")
    assert folder_files(tmp_path / "a") == folder_files(tmp_path / "b")
    assert first == again
    assert other.fingerprint != first.fingerprint


def test_the_base_models_own_wrong_answers_score_lower(
    judge: Judge, base: ModelRef, device: Device
) -> None:
    tasks = own_tasks(JudgeConfig(on_policy_negatives=60), "tasks that training did not see")
    with loaded_model(base, device) as loaded:
        answered = answered_tasks(loaded.model, loaded.tokenizer, tasks, "salt")
    told = [one for one in answered if one.wrong]
    right = judge.score([one.example for one in told])
    wrong = judge.score([replace(one.example, output=one.wrong[0]) for one in told])
    assert len(told) > 40
    for part in ("coherence", "reward_model"):
        above = [good[part] > bad[part] for good, bad in zip(right, wrong, strict=True)]
        assert fmean(above) > 0.7, part


def test_own_answers_are_part_of_what_is_learnt(
    base: ModelRef, device: Device, tmp_path: Path
) -> None:
    without = SMALL.model_copy(update={"on_policy_negatives": 0})
    first = train_judge(base, SEEDS, SMALL, tmp_path / "a", device, "salt")
    other = train_judge(base, SEEDS, without, tmp_path / "b", device, "salt")
    cards = [json.loads((tmp_path / name / "judge.json").read_text("utf-8")) for name in "ab"]
    assert 0 < cards[0]["answered_tasks"] <= 12
    assert cards[1]["answered_tasks"] == 0
    assert first.fingerprint != other.fingerprint


def test_the_folder_stands_alone(
    trained: tuple[Path, MeasuredJudge],
    judge: Judge,
    base: ModelRef,
    device: Device,
    tmp_path: Path,
) -> None:
    folder, training = trained
    copy = tmp_path / "elsewhere"
    for name in folder_files(folder):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes((folder / name).read_bytes())
    with loaded_judge(copy, device, base) as loaded:
        scores: Sequence[Scores] = loaded.score(SEEDS)
        assert loaded.fingerprint == training.fingerprint == judge.fingerprint
    assert scores == judge.score(SEEDS)
    for name in folder_files(folder):
        assert str(folder).encode() not in (folder / name).read_bytes()


def test_a_folder_that_is_no_judge_is_refused(
    trained: tuple[Path, MeasuredJudge], base: ModelRef, device: Device, tmp_path: Path
) -> None:
    with pytest.raises(JudgeError, match=r"judge\.json"), loaded_judge(tmp_path, device, base):
        pass
    for name in folder_files(trained[0]):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((trained[0] / name).read_bytes())
    (tmp_path / "judge.json").write_text(json.dumps({"format": 99}), encoding="utf-8")
    with pytest.raises(JudgeError, match="format 99"), loaded_judge(tmp_path, device, base):
        pass


def test_too_few_good_triples_are_refused(base: ModelRef, device: Device, tmp_path: Path) -> None:
    config = JudgeConfig(primer_tasks=0, steps=1)
    with pytest.raises(JudgeError, match="of 1 good examples"):
        train_judge(base, SEEDS[:1], config, tmp_path / "judge", device, "salt")
    assert not (tmp_path / "judge").exists()


def test_held_out_is_decided_by_task_alone() -> None:
    chosen = [is_held_out(example, 0.2, "salt") for example in SEEDS]
    answers = [Example(example.instruction, example.input, "other") for example in SEEDS]
    assert chosen == [is_held_out(example, 0.2, "salt") for example in answers]
    many = [task.example for task in primer_tasks(1000, 3)]
    assert 150 < sum(is_held_out(example, 0.2, "salt") for example in many) < 250


def test_padded_lengths_hold_the_text_and_never_pass_the_longest() -> None:
    for longest in (100, 512):
        for tokens in range(1, longest + 1):
            length = pass_length(tokens, longest, LENGTHS)
            assert tokens <= length <= longest
            assert length in LENGTHS or length == longest
