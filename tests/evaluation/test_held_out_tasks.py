"""The packaged held-out tasks: SUPER-NI's format, right answers, no instruction of the seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from importlib.resources import files
from typing import Any

import pytest

from refine_dagster.evaluation.super_ni import PACKAGED, PACKAGED_FOLDERS, load_tasks, tasks_hash
from refine_dagster.novelty.filter import NoveltyFilter
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.seeds.readers import read_seeds
from tests.builders.held_out_rules import MORE_RULES, RULES

SETS: dict[str, dict[str, dict[str, Any]]] = {
    folder: {
        entry.name: json.loads(entry.read_text(encoding="utf-8"))
        for entry in (files("refine_dagster") / "evaluation" / folder).iterdir()
    }
    for folder in PACKAGED_FOLDERS["packaged_all"]
}
TASKS = {name: task for tasks in SETS.values() for name, task in sorted(tasks.items())}
SEEDS = read_seeds("packaged").seeds
# The categories whose answers are labels that the definition names; all others are generation.
CLASSIFICATION = {
    "Dialogue Act Recognition",
    "Fact Verification",
    "Number Classification",
    "Sentiment Analysis",
    "Tense Classification",
    "Text Categorization",
    "Word Classification",
}
# sha256 of the default run's tasks: another value makes every home evaluate again.
DEFAULT_TASKS = "ec97e1e58ab35258d333ffc31865f7ebe94ca3b7487664e024df103f9117992e"
FIELDS = [
    "Contributors",
    "Source",
    "Categories",
    "Definition",
    "Input_language",
    "Output_language",
    "Positive Examples",
    "Negative Examples",
    "Instances",
    "Instance License",
]


def _normal(text: str) -> str:
    return " ".join(text.casefold().split())


def _slug(name: str) -> str:
    """`ten_more` of `task055_ten_more.json`."""
    return name[8:].removesuffix(".json")


def _is_classification(name: str) -> bool:
    return TASKS[name]["Categories"][0] in CLASSIFICATION


def test_there_are_enough_tasks_categories_and_instances() -> None:
    assert [len(tasks) for tasks in SETS.values()] == [35, 63]
    assert len({category for task in TASKS.values() for category in task["Categories"]}) >= 16
    assert 20 <= sum(map(_is_classification, TASKS)) <= 49
    assert all(8 <= len(task["Instances"]) <= 12 for task in TASKS.values())


def test_the_larger_set_has_the_tasks_of_the_default_run_and_more() -> None:
    first, all_of_them = load_tasks(PACKAGED, 100), load_tasks("packaged_all", 100)
    assert [f"{task.name}.json" for task in all_of_them] == list(TASKS)
    assert all_of_them[: len(first)] == first
    assert tasks_hash(first) == DEFAULT_TASKS


@pytest.mark.parametrize("name", list(TASKS))
def test_a_task_file_has_the_benchmarks_format(name: str) -> None:
    task = TASKS[name]
    assert re.fullmatch(r"task\d{3}_[a-z_]+\.json", name)
    for field in FIELDS:
        assert isinstance(task[field], list), field
        assert task[field], field
    assert len(task["Definition"]) == 1
    assert 8 <= len(task["Definition"][0].split()) <= 30
    for example in task["Positive Examples"] + task["Negative Examples"]:
        assert set(example) == {"input", "output", "explanation"}
        assert all(isinstance(text, str) and text.strip() for text in example.values())
    asked = [instance["input"] for instance in task["Instances"]]
    shown = [example["input"] for example in task["Positive Examples"]]
    assert len({*asked, *shown}) == len(asked) + len(shown)
    for instance in task["Instances"]:
        assert set(instance) == {"id", "input", "output"}
        assert len(instance["input"].split()) <= 16
        assert instance["output"]
        assert len(set(instance["output"])) == len(instance["output"])
        for answer in instance["output"]:
            assert answer == " ".join(answer.split()) != ""
            assert len(answer.split()) <= 18
    right = {example["input"]: example["output"] for example in task["Positive Examples"]}
    for example in task["Negative Examples"]:
        assert example["output"] != right[example["input"]]


def test_instance_ids_are_unique() -> None:
    ids = Counter(instance["id"] for task in TASKS.values() for instance in task["Instances"])
    assert set(ids.values()) == {1}


def test_no_definition_is_close_to_a_seed_or_to_another_definition() -> None:
    """By the pipeline's own rule of novelty, ROUGE-L F of 0.7."""
    pool = NoveltyFilter(0.7, nearest_of="all")
    seeds = [seed.instruction for seed in SEEDS]
    assert len(seeds) >= 150
    pool.preload(seeds)
    definitions = [task["Definition"][0] for task in TASKS.values()]
    decisions = zip(definitions, pool.accept(definitions), strict=True)
    assert [(text, decision) for text, decision in decisions if not decision.kept] == []


def test_no_definition_is_an_instruction_of_the_primer() -> None:
    known = {_normal(task.example.instruction) for task in primer_tasks(6000, seed=0)}
    assert not known & {_normal(task["Definition"][0]) for task in TASKS.values()}


def test_no_new_instance_is_in_the_seeds_or_in_the_default_tasks() -> None:
    known = {
        (_normal(instance.input), _normal(instance.output))
        for seed in SEEDS
        for instance in seed.instances
    }
    default, more = (
        {
            (_normal(instance["input"]), _normal(answer))
            for task in tasks.values()
            for instance in task["Instances"]
            for answer in instance["output"]
        }
        for tasks in SETS.values()
    )
    assert len(more) >= 10 * 60
    assert not (known | default) & more


@pytest.mark.parametrize("name", [name for name in TASKS if _slug(name) in RULES])
def test_answers_with_a_rule_are_right_when_computed_again(name: str) -> None:
    task, rule = TASKS[name], RULES[_slug(name)]
    for instance in task["Instances"]:
        assert instance["output"][0] == rule(instance["input"]), instance
    for example in task["Positive Examples"]:
        assert example["output"] == rule(example["input"]), example


def test_every_rule_has_its_task() -> None:
    assert set(RULES) <= set(map(_slug, TASKS))
    # Of the new tasks, only a free story has none.
    assert set(map(_slug, SETS["held_out_more"])) - set(MORE_RULES) == {"story_of_two_lines"}


@pytest.mark.parametrize("name", [name for name in TASKS if _is_classification(name)])
def test_labels_are_few_balanced_and_named(name: str) -> None:
    task = TASKS[name]
    labels = Counter(instance["output"][0] for instance in task["Instances"])
    assert 2 <= len(labels) <= 4
    assert max(labels.values()) <= 6
    for label in labels:
        assert label in task["Definition"][0].casefold()
    assert all(len(instance["output"]) == 1 for instance in task["Instances"])


@pytest.mark.parametrize("name", list(SETS["held_out_more"]))
def test_a_new_generation_task_has_no_frequent_answer(name: str) -> None:
    """So whoever tells the kinds of task apart by repeated answers finds the same kinds."""
    answers = [instance["output"][0] for instance in TASKS[name]["Instances"]]
    assert (2 * len(set(answers)) <= len(answers)) == _is_classification(name)
