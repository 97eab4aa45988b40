"""The packaged held-out tasks: SUPER-NI's format, right answers, no instruction of the seeds."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

from refine_dagster.evaluation.super_ni import load_tasks
from refine_dagster.offline.primer import primer_tasks
from refine_dagster.offline.world import world

FOLDER = files("refine_dagster") / "evaluation" / "held_out"
TASKS: dict[str, dict[str, Any]] = {
    entry.name: json.loads(entry.read_text(encoding="utf-8"))
    for entry in sorted(FOLDER.iterdir(), key=lambda entry: entry.name)
}
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


def _listed(text: str) -> list[str]:
    return text.split(", ")


def _numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text)]


def test_there_are_enough_tasks_categories_and_instances() -> None:
    assert len(TASKS) >= 24
    assert len({category for task in TASKS.values() for category in task["Categories"]}) >= 6
    assert all(8 <= len(task["Instances"]) <= 12 for task in TASKS.values())
    loaded = load_tasks("packaged", max_instances=100)
    assert [f"{task.name}.json" for task in loaded] == list(TASKS)


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


def test_no_definition_is_an_instruction_of_the_seeds_or_of_the_primer() -> None:
    seeds = files("refine_dagster") / "seeds" / "packaged.jsonl"
    known = {
        _normal(json.loads(line)["instruction"])
        for line in seeds.read_text(encoding="utf-8").splitlines()
        if line.strip()
    }
    assert len(known) >= 150
    known |= {_normal(task.example.instruction) for task in primer_tasks(6000, seed=0)}
    definitions = [_normal(task["Definition"][0]) for task in TASKS.values()]
    assert len(set(definitions)) == len(definitions)
    assert not known & set(definitions)


def _kind_stranger(text: str) -> str:
    kinds = {word: kind for kind, words in world().kinds.items() for word in words}
    counts = Counter(kinds[word] for word in _listed(text))
    return next(word for word in _listed(text) if counts[kinds[word]] == 1)


def _story(text: str) -> str:
    first, second = _numbers(text)
    return str(first + second if re.search(r"(gets|buys|finds) \d+ more", text) else first - second)


def _opposite(word: str) -> str:
    pairs = [set(pair) for pair in world().opposites if word in pair]
    assert len(pairs) == 1, word
    return next(iter(pairs[0] - {word}))


def _shared(text: str) -> str:
    left, right = (set(_listed(side)) for side in text.split(" / "))
    assert len(left & right) == 1, text
    return next(iter(left & right))


def _simple(text: str) -> str:
    return re.sub(r"^The very \w+ \w+ (\w+) is (.*) now\.$", r"The \1 is \2.", text)


def _data_sentence(text: str) -> str:
    return re.sub(r"^thing: (\w+); place: (.*)$", r"The \1 is \2.", text)


RULES: dict[str, Callable[[str], str]] = {
    "backward_list": lambda text: ", ".join(_listed(text)[::-1]),
    "dictionary_order": lambda text: ", ".join(sorted(_listed(text))),
    "closing_word": lambda text: text.rsplit(", ", 1)[-1],
    "most_letters": lambda text: sorted(_listed(text), key=len)[-1],
    "how_long_is_the_list": lambda text: str(text.count(",") + 1),
    "contrary_meaning": _opposite,
    "more_than_one": lambda text: world().plural(text),
    "top_score": lambda text: str(sorted(_numbers(text))[-1]),
    "rising_row": lambda text: ", ".join(str(number) for number in sorted(_numbers(text))),
    "shopping_bill": lambda text: str(sum(_numbers(text))),
    "stranger_in_the_group": _kind_stranger,
    "no_word_twice": lambda text: ", ".join(sorted(set(_listed(text)), key=_listed(text).index)),
    "joined_groups": lambda text: str(sum(_numbers(text))),
    "stories_with_numbers": _story,
    "painting_things": lambda text: world().colours[text],
    "who_makes_this_noise": lambda text: next(
        animal for animal, sound in world().sounds.items() if sound == text
    ),
    "asking_or_telling": lambda text: "question" if text.endswith("?") else "statement",
    "friendlier_words": lambda text: f"Could you {text[0].lower()}{text[1:-1]}, please?",
    "answer_in_full": lambda text: re.sub(r"^Is the (\w+) (.*)\?$", r"The \1 is \2.", text),
    "span_of_numbers": lambda text: str(sorted(_numbers(text))[-1] - sorted(_numbers(text))[0]),
    "both_ends": lambda text: f"{_listed(text)[0]} and {_listed(text)[-1]}",
    "matching_pairs": lambda text: _opposite(text.split(" as ")[1].removesuffix(" is to")),
    "upside_down_alphabet": lambda text: ", ".join(sorted(_listed(text))[::-1]),
    "shared_word": _shared,
    "facts_into_sentence": _data_sentence,
    "fewer_details": _simple,
}


@pytest.mark.parametrize("rule", sorted(RULES))
def test_answers_with_a_rule_are_right_when_computed_again(rule: str) -> None:
    (task,) = [task for name, task in TASKS.items() if name[8:].removesuffix(".json") == rule]
    for instance in task["Instances"]:
        assert instance["output"][0] == RULES[rule](instance["input"]), instance
    for example in task["Positive Examples"]:
        assert example["output"] == RULES[rule](example["input"]), example


@pytest.mark.parametrize("name", ["sentiment", "topic", "facts", "kinds of speech"])
def test_labels_are_balanced(name: str) -> None:
    task = TASKS[
        {
            "sentiment": "task019_happy_or_unhappy_guest.json",
            "topic": "task020_shelf_for_the_line.json",
            "facts": "task021_yes_or_no_facts.json",
            "kinds of speech": "task022_asking_or_telling.json",
        }[name]
    ]
    labels = Counter(instance["output"][0] for instance in task["Instances"])
    assert len(labels) >= 2
    assert max(labels.values()) <= 6
    for label in labels:
        assert label in task["Definition"][0].casefold()
