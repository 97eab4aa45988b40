"""Held-out tasks: the prompt, the reader of task files, answers and their scores."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.config.learning import EvaluationConfig
from refine_dagster.evaluation.answers import (
    STOP,
    InstanceScore,
    Prediction,
    TaskScore,
    fitted_prompt,
    predict,
    score,
    unread_instances,
)
from refine_dagster.evaluation.super_ni import (
    Task,
    TaskFileError,
    TaskInstance,
    load_tasks,
    tasks_hash,
)
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.prompts.example import zero_shot_prompt
from refine_dagster.warehouse.tables import TABLES


def _content(**changes: Any) -> dict[str, Any]:
    example = {"input": "a b", "output": "b a", "explanation": "turned"}
    return {
        "Definition": ["Turn the words around."],
        "Categories": ["Word Order", "Other"],
        "Positive Examples": [example],
        "Negative Examples": [],
        "Instances": [
            {"id": "1", "input": "red sun", "output": ["sun red", "sun, red"]},
            {"id": "2", "input": "", "output": "nothing"},
            {"id": "3", "input": "x y", "output": ["y x"]},
        ],
        **changes,
    }


def _write(folder: Path, name: str, content: Any) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(content), encoding="utf-8")


def _problems(folder: Path) -> list[tuple[str, str | None]]:
    with pytest.raises(TaskFileError) as caught:
        load_tasks(str(folder), 100)
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
    return [(problem.file, problem.field) for problem in caught.value.problems]


def test_prompt_is_the_benchmarks_without_its_last_space() -> None:
    assert zero_shot_prompt(" Count the words", "one two ") == (
        "Definition: Count the words.\n\n"
        "Now complete the following example -\nInput: one two.\nOutput:"
    )


@pytest.mark.parametrize("end", [".", "?", "!", ":", ")", '"'])
def test_punctuated_fields_get_no_full_stop(end: str) -> None:
    prompt = zero_shot_prompt(f"Do it{end}", f"this{end}")
    assert f"Definition: Do it{end}\n\n" in prompt
    assert f"Input: this{end}\n" in prompt


def test_empty_input_is_written_as_everywhere_else() -> None:
    assert "\nInput: <noinput>\n" in zero_shot_prompt("Greet.", " ")


def test_a_folder_of_tasks_is_read_in_name_order(tmp_path: Path) -> None:
    _write(tmp_path, "b.json", _content())
    text = json.dumps(_content(Definition="One text.", Categories="Only"))
    (tmp_path / "a.json").write_bytes(b"\xef\xbb\xbf" + text.encode())
    (tmp_path / "README.md").write_text("not a task")
    first, second = load_tasks(str(tmp_path), 2)
    assert (first.name, first.definition, first.categories) == ("a", "One text.", ("Only",))
    assert second == Task(
        "b",
        "Turn the words around.",
        ("Word Order", "Other"),
        (
            TaskInstance("red sun", ("sun red", "sun, red")),
            TaskInstance("", ("nothing",)),
        ),
    )
    assert len(load_tasks(str(tmp_path), 100)[0].instances) == 3


def test_the_hash_follows_what_is_asked_and_nothing_else(tmp_path: Path) -> None:
    _write(tmp_path, "a.json", _content())
    before = tasks_hash(load_tasks(str(tmp_path), 100))
    (tmp_path / "a.json").write_text(json.dumps(_content(Source=["x"]), indent=3))
    assert tasks_hash(load_tasks(str(tmp_path), 100)) == before
    assert tasks_hash(load_tasks(str(tmp_path), 1)) != before
    _write(tmp_path, "a.json", _content(Definition="Other."))
    assert tasks_hash(load_tasks(str(tmp_path), 100)) != before


def test_every_problem_of_every_file_is_in_one_error(tmp_path: Path) -> None:
    instances = [
        {"input": 3, "output": ["x"]},
        "text",
        {"input": "x", "output": []},
        {"output": ["a", ""]},
        {"input": "a\0b", "output": None},
        {"input": "\ud800", "output": "x"},
    ]
    bad = _content(Categories=[], Instances=instances)
    del bad["Definition"]
    bad["Negative Examples"] = {"a": 1}
    bad["Positive Examples"] = [{"input": "x"}]
    _write(tmp_path, "1.json", bad)
    _write(tmp_path, "2.json", ["a list"])
    (tmp_path / "3.json").write_text('{"Definition":\n oops}')
    (tmp_path / "4.json").write_bytes(b'{"Definition": "\xff"}')
    (tmp_path / "5.json").write_text("[" * 200_000)
    _write(tmp_path, "6.json", _content(Instances=[]))
    _write(tmp_path, "7.json", {"Definition": " ", "Categories": [1]})
    _write(tmp_path, "8.json", _content())
    assert _problems(tmp_path) == [
        ("1.json", "Definition"),
        ("1.json", "Categories"),
        ("1.json", "Positive Examples[0].output"),
        ("1.json", "Negative Examples"),
        ("1.json", "Instances[1]"),
        ("1.json", "Instances[0].input"),
        ("1.json", "Instances[2].output"),
        ("1.json", "Instances[3].input"),
        ("1.json", "Instances[3].output[1]"),
        ("1.json", "Instances[4].input"),
        ("1.json", "Instances[4].output"),
        ("1.json", "Instances[5].input"),
        ("2.json", None),
        ("3.json", "line 2"),
        ("4.json", None),
        ("5.json", None),
        ("6.json", "Instances"),
        ("7.json", "Definition"),
        ("7.json", "Categories[0]"),
        ("7.json", "Instances"),
    ]


def test_instances_beyond_those_that_count_are_checked_too(tmp_path: Path) -> None:
    _write(tmp_path, "a.json", _content(Instances=[{"input": "x", "output": "y"}, {"input": "x"}]))
    with pytest.raises(TaskFileError, match=r"a\.json: Instances\[1\]\.output: is missing"):
        load_tasks(str(tmp_path), 1)


def test_a_folder_without_tasks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TaskFileError, match="no such folder"):
        load_tasks(str(tmp_path / "absent"), 100)
    with pytest.raises(TaskFileError, match=r"holds no \*\.json files"):
        load_tasks(str(tmp_path), 100)


def test_packaged_tasks_are_twenty_or_more_and_hold_no_stop() -> None:
    tasks = load_tasks("packaged", 100)
    assert len(tasks) >= 20
    assert len({task.definition for task in tasks}) == len(tasks)
    references = [
        text for task in tasks for instance in task.instances for text in instance.references
    ]
    assert references
    assert not any(stop in text for stop in STOP for text in references)


def _cut(text: str, count: int) -> str:
    """Characters are the tokens."""
    return text[:count]


TASKS = [
    Task("colours", "Name the colour.", ("QA",), (TaskInstance("grass", ("green", "lime green")),)),
    Task(
        "greetings",
        "Greet the animals.",
        ("Writing", "Other"),
        (TaskInstance("cats", ("hello running cats",)), TaskInstance("dogs", ("Hello, dogs!",))),
    ),
]


def test_every_instance_is_asked_greedily_once() -> None:
    seen: list[Request] = []

    def complete(requests: Sequence[Request]) -> list[Completion]:
        seen.extend(requests)
        return [Completion(f" answer {n}\n", "eos", 9, 3) for n in range(len(requests))]

    config = EvaluationConfig(max_new_tokens=12, max_source_tokens=1000)
    assert predict(complete, _cut, TASKS, config) == [
        Prediction("colours", 0, "answer 0"),
        Prediction("greetings", 0, "answer 1"),
        Prediction("greetings", 1, "answer 2"),
    ]
    assert [request.prompt for request in seen] == [
        zero_shot_prompt("Name the colour.", "grass"),
        zero_shot_prompt("Greet the animals.", "cats"),
        zero_shot_prompt("Greet the animals.", "dogs"),
    ]
    assert {(request.role, request.seed) for request in seen} == {("respond", 0)}
    sampling = seen[0].sampling
    assert isinstance(sampling, Sampling)
    assert (sampling.temperature, sampling.max_new_tokens, sampling.stop) == (0.0, 12, ("\n\n",))


def test_a_long_input_is_cut_so_that_the_prompt_just_fits() -> None:
    whole = zero_shot_prompt("Sum.", "1" * 300)
    fitted = fitted_prompt("Sum.", "1" * 300, 120, _cut)
    assert len(fitted) == 120
    assert fitted.startswith("Definition: Sum.\n\n")
    assert fitted.endswith("1.\nOutput:")
    assert fitted_prompt("Sum.", "1" * 300, len(whole), _cut) == whole
    assert fitted_prompt("Sum.", "1" * 300, len(whole) - 1, _cut) == whole.replace("1.", ".")


def test_a_long_definition_is_cut_where_no_input_is_short_enough() -> None:
    fitted = fitted_prompt("d" * 300, "given", 120, _cut)
    assert len(fitted) == 120
    assert fitted.startswith("Definition: ddd")
    assert fitted.endswith("d.\n\nNow complete the following example -\nInput: <noinput>\nOutput:")


def test_scores_are_those_worked_out_by_hand() -> None:
    predictions = [
        Prediction("colours", 0, "The green."),
        Prediction("greetings", 0, "hello run dogs"),
        Prediction("greetings", 1, "hello dogs"),
    ]
    scores = score("base", TASKS, predictions)
    # "the green" shares one word with "green": P 1/2, R 1, F 2/3; with "lime green" F 1/2.
    assert scores.instances[0].rouge_l == pytest.approx(200 / 3)
    # The stemmer makes "running" "run": two of three words in order, F 2/3.
    assert scores.instances[1].rouge_l == pytest.approx(200 / 3)
    assert scores.instances[2].rouge_l == pytest.approx(100)
    colours, greetings = scores.tasks
    assert asdict(colours) == {
        "arm": "base",
        "task": "colours",
        "category": "QA",
        "instances": 1,
        "rouge_l": pytest.approx(200 / 3),
        "exact_match": 0.0,
    }
    assert greetings.category == "Writing"
    assert greetings.rouge_l == pytest.approx(250 / 3)
    assert greetings.exact_match == 50.0
    assert scores.instances[2].reference_outputs == ("Hello, dogs!",)


def test_exact_match_sees_no_case_and_no_punctuation_but_tells_signs_apart() -> None:
    instances = tuple(TaskInstance("", (text,)) for text in ("A big  dog", "+", "+"))
    task = Task("t", "d.", ("c",), instances)
    said = ("a BIG dog!", "-", "+")
    predictions = [Prediction("t", place, text) for place, text in enumerate(said)]
    assert score("base", [task], predictions).tasks[0].exact_match == pytest.approx(200 / 3)


def test_an_empty_answer_scores_nothing() -> None:
    predictions = [Prediction("colours", 0, "")]
    assert score("base", TASKS[:1], predictions).tasks[0] == TaskScore(
        "base", "colours", "QA", 1, 0.0, 0.0
    )


@pytest.mark.parametrize(
    "answered", [[], [("colours", 0), ("colours", 0)], [("colours", 1)], [("other", 0)]]
)
def test_predictions_that_do_not_match_the_tasks_are_refused(
    answered: list[tuple[str, int]],
) -> None:
    predictions = [Prediction(task, place, "x") for task, place in answered]
    with pytest.raises(ValueError, match="do not match"):
        score("base", TASKS[:1], predictions)


@pytest.mark.parametrize(
    ("row", "table"),
    [(TaskScore, "evaluation_report"), (InstanceScore, "evaluation_predictions")],
)
def test_rows_have_the_columns_of_their_tables(row: type[Any], table: str) -> None:
    assert [field.name for field in fields(row)] == list(TABLES[table].columns)


CASES = Path(__file__).parents[3] / "shared" / "cases"


def test_numbers_are_read_as_text_and_problems_of_a_kind_are_counted(tmp_path: Path) -> None:
    numbers = [{"input": "x", "output": [2]}, {"input": "y", "output": 1.5}]
    _write(tmp_path, "a.json", _content(Instances=numbers))
    read = load_tasks(str(tmp_path), 100)[0].instances
    assert [instance.references for instance in read] == [("2",), ("1.5",)]
    _write(tmp_path, "a.json", _content(Instances=[{"input": "x", "output": [None]}] * 3000))
    with pytest.raises(TaskFileError) as caught:
        load_tasks(str(tmp_path), 100)
    assert len(caught.value.problems) == 3000
    lines = str(caught.value).splitlines()
    assert len(lines) == 8
    assert lines[6] == "  ... and 2,995 more of: must be text, not null"


def test_instances_that_rouge_cannot_read_are_counted() -> None:
    right = [("低",), ("] )", "}"), ("低", "low")]
    task = Task("t", "d.", ("c",), tuple(TaskInstance("", texts) for texts in right))
    assert unread_instances([*TASKS, task]) == 2
    assert unread_instances(load_tasks("packaged", 100)) == 0


@pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")
def test_cases_of_tasks(tmp_path: Path) -> None:
    for file in CASES.glob("task*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    antonym, brackets, numbers = load_tasks(str(tmp_path), 100)
    assert (unread_instances([antonym]), unread_instances([brackets])) == (3, 2)
    assert numbers.instances[0].references == ("2",)
