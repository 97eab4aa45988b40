"""The base model's own answers: labelled by what is right, and the same twice."""

from __future__ import annotations

from pathlib import Path
from random import Random

from refine_dagster.config.learning import JudgeConfig
from refine_dagster.judge.corruptions import normalised
from refine_dagster.judge.on_policy_negatives import (
    SAMPLES,
    AnsweredTask,
    answered_tasks,
    compared,
    own_tasks,
    wrong_answers,
)
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import loaded_model, resolve_model
from refine_dagster.offline.primer import CLOSED_FAMILIES, primer_tasks
from refine_dagster.prompts.example import Example

SUM = Example("Add the numbers.", "2, 3", "5")
COLOUR = Example("Which colour?", "snow", "white")


def test_answers_are_compared_with_what_is_right() -> None:
    assert compared(SUM, ["5", " 5. ", "6", "", "6.", "2, 3"]) == AnsweredTask(
        SUM, ("6", "2, 3"), 2
    )
    assert compared(COLOUR, ["WHITE", "Snow.", "snow"]).wrong == ("Snow.",)


def test_answers_to_other_tasks_are_wrong_unless_they_are_right_here() -> None:
    here = AnsweredTask(SUM, ("6", "7", "8"), 1)
    others = [here, AnsweredTask(COLOUR, ("5.", "red"), 0), AnsweredTask(COLOUR, (), 4)]
    seen: set[str] = set()
    for draw in range(200):
        made = wrong_answers(here, others, 2, 3, Random(draw))
        outputs = [example.output for example in made]
        assert all(text in here.wrong for text in outputs[:2])
        assert len(set(outputs)) == len(outputs) <= 5
        assert all((one.instruction, one.input) == (SUM.instruction, SUM.input) for one in made)
        seen.update(outputs)
    assert seen == {"6", "7", "8", "red"}
    assert wrong_answers(here, others, 2, 3, Random(1)) == wrong_answers(
        here, others, 2, 3, Random(1)
    )


def test_a_model_without_wrong_answers_leaves_none() -> None:
    perfect = AnsweredTask(SUM, (), SAMPLES)
    assert wrong_answers(perfect, [perfect], 2, 1, Random(0)) == []


def test_tasks_have_one_right_answer_and_are_drawn_apart() -> None:
    config = JudgeConfig(on_policy_negatives=300)
    tasks = own_tasks(config, "salt")
    assert len(tasks) == 300
    assert tasks[:100] == own_tasks(JudgeConfig(on_policy_negatives=100), "salt")
    assert tasks != own_tasks(config, "pepper")
    assert own_tasks(JudgeConfig(on_policy_negatives=0), "salt") == []
    closed = {task.example for task in primer_tasks(3000, 1) if task.family in CLOSED_FAMILIES}
    opened = {task.example for task in primer_tasks(3000, 1)} - closed
    assert not set(tasks) & opened


def test_a_models_answers_are_the_same_twice(tiny_model_folder: Path, device: Device) -> None:
    tasks = own_tasks(JudgeConfig(on_policy_negatives=20), "salt")
    with loaded_model(resolve_model(str(tiny_model_folder)), device) as loaded:
        first = answered_tasks(loaded.model, loaded.tokenizer, tasks, "salt")
        again = answered_tasks(loaded.model, loaded.tokenizer, tasks, "salt")
        other = answered_tasks(loaded.model, loaded.tokenizer, tasks, "pepper")
    assert [one.example for one in first] == tasks
    assert first == again != other
    assert sum(len(one.wrong) for one in first) > len(tasks)
    for one in first:
        assert len(one.wrong) + one.right <= SAMPLES
        assert normalised(one.example.output) not in map(normalised, one.wrong)
        assert not any("\n" in text for text in one.wrong)
