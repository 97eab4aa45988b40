"""A clone of the benchmark's repository is read by its split lists, and scored as it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from refine_dagster.config.profile import load_profile
from refine_dagster.evaluation.answers import Prediction, TaskScore, score
from refine_dagster.evaluation.report import CategoryScore, category_means
from refine_dagster.evaluation.super_ni import (
    Split,
    Task,
    TaskFileError,
    TaskInstance,
    load_tasks,
    task_entries,
)


def _task(instances: int = 3, **changes: Any) -> dict[str, Any]:
    """A task with the fields of the benchmark's files."""
    shown = {"input": "a b", "output": "b a", "explanation": "Turned."}
    return {
        "Contributors": ["Somebody"],
        "Source": ["synthetic"],
        "URL": [""],
        "Categories": ["Word Order"],
        "Reasoning": [],
        "Definition": ["Turn the words around."],
        "Input_language": ["English"],
        "Output_language": ["English"],
        "Instruction_language": ["English"],
        "Domains": ["Words"],
        "Positive Examples": [shown, shown],
        "Negative Examples": [shown],
        "Instances": [
            {"id": f"task-{n}", "input": f"{n} x", "output": [f"x {n}"]} for n in range(instances)
        ],
        "Instance License": ["Unknown"],
        **changes,
    }


def _clone(folder: Path, tasks: dict[str, Any], **lists: str) -> str:
    (folder / "tasks").mkdir(parents=True)
    (folder / "splits" / "default").mkdir(parents=True)
    (folder / "tasks" / "README.md").write_text("the tasks")
    for name, content in tasks.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / "tasks" / f"{name}.json").write_text(text)
    for split, names in lists.items():
        (folder / "splits" / "default" / f"{split}_tasks.txt").write_text(names)
    return str(folder)


@pytest.mark.parametrize(
    ("split", "names"),
    [("test", ["task2_b", "task3-c"]), ("train", ["task1_a"]), ("excluded", ["task4_d"])],
)
def test_a_list_chooses_its_tasks(tmp_path: Path, split: Split, names: list[str]) -> None:
    # The file that is no task at all belongs to another list, and is not read.
    tasks = {name: _task() for name in ("task1_a", "task2_b", "task3-c", "task4_d")}
    path = _clone(
        tmp_path,
        {**tasks, "task5_e": "no JSON"},
        train="task1_a\n",
        test="task3-c\r\ntask2_b\n\n",
        excluded="task4_d",
    )
    assert [task.name for task in load_tasks(path, 100, split)] == names
    assert [entry.name for entry in task_entries(path, split)] == [f"{name}.json" for name in names]


def test_the_test_list_is_read_unless_told_otherwise_and_may_stand_alone(tmp_path: Path) -> None:
    path = _clone(tmp_path, {"task1_a": _task(), "task2_b": _task()}, test="task2_b\n")
    assert [task.name for task in load_tasks(path, 100)] == ["task2_b"]
    with pytest.raises(TaskFileError, match=r"train_tasks\.txt: is missing"):
        load_tasks(path, 100, "train")


def test_the_first_hundred_instances_count(tmp_path: Path) -> None:
    path = _clone(tmp_path, {"task1_a": _task(instances=130)}, test="task1_a")
    (task,) = load_tasks(path, load_profile("gpu", environment={}).evaluation.max_instances)
    assert len(task.instances) == 100
    assert task.instances[99] == TaskInstance("99 x", ("x 99",))


@pytest.mark.parametrize("profile", ["laptop", "gpu"])
def test_profiles_for_real_models_keep_the_benchmarks_limits(profile: str) -> None:
    config = load_profile(profile, environment={}).evaluation
    limits = (config.max_instances, config.max_source_tokens, config.max_new_tokens)
    assert (limits, config.split) == ((100, 1024, 128), "test")


def test_every_problem_of_lists_and_files_is_in_one_error(tmp_path: Path) -> None:
    path = _clone(
        tmp_path,
        {"task1_a": _task(), "task2_b": "{", "task3_c": _task(Instances=[{"input": "x"}])},
        test="task1_a\ntask2_b\ntask1_a\n../task9\ntask3_c\ntask7_g\ntask1_a.json\n",
        train="task1_a\n",
        excluded="\n",
    )
    with pytest.raises(TaskFileError) as caught:
        load_tasks(path, 100)
    test, excluded = "splits/default/test_tasks.txt", "splits/default/excluded_tasks.txt"
    assert [(problem.file, problem.field) for problem in caught.value.problems] == [
        (test, "line 3"),
        (test, "line 4"),
        (test, "line 7"),
        (excluded, None),
        (test, "line 1"),
        (test, "line 6"),
        ("tasks/task2_b.json", "line 1"),
        ("tasks/task3_c.json", "Instances[0].output"),
    ]
    assert "line 1: task1_a is in splits/default/train_tasks.txt too" in str(caught.value)
    assert "line 3: task1_a is in line 1 already" in str(caught.value)
    assert "line 6: there is no tasks/task7_g.json" in str(caught.value)


def test_a_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    path = _clone(tmp_path, {}, test="")
    (tmp_path / "splits" / "default" / "test_tasks.txt").write_bytes(b"task\xff")
    with pytest.raises(TaskFileError, match=r"test_tasks\.txt: is not UTF-8: bad byte at offset 4"):
        task_entries(path)


def test_an_empty_answer_is_let_through_as_the_benchmark_does(tmp_path: Path) -> None:
    instances = [{"input": "x", "output": ["", "y"]}, {"input": "z", "output": [""]}]
    path = _clone(tmp_path, {"task1_a": _task(Instances=instances)}, test="task1_a")
    (task,) = load_tasks(path, 100)
    assert task.instances == (TaskInstance("x", ("y",)), TaskInstance("z", ("",)))
    said = [Prediction("task1_a", 0, "y"), Prediction("task1_a", 1, "something")]
    assert score("base", [task], said).tasks[0].rouge_l == 50.0
    # A folder of one's own is held to having answers.
    with pytest.raises(TaskFileError, match="is empty"):
        load_tasks(str(tmp_path / "tasks"), 100)


def _score(category: str, instances: int, rouge_l: float) -> TaskScore:
    return TaskScore("base", f"{category}/{rouge_l}", category, instances, rouge_l, 0.0)


def test_macro_and_micro_means_are_those_worked_out_by_hand() -> None:
    found = category_means([_score("b", 100, 30.0), _score("a", 100, 60.0), _score("a", 50, 90.0)])
    assert found.categories == (CategoryScore("a", 2, 150, 70.0), CategoryScore("b", 1, 100, 30.0))
    assert found.macro == pytest.approx(50.0)
    assert found.micro == pytest.approx(54.0)


def test_a_task_counts_in_its_first_category_alone() -> None:
    task = Task("t", "d.", ("first", "second"), (TaskInstance("", ("yes",)),))
    scores = score("base", [task], [Prediction("t", 0, "yes")]).tasks
    assert [one.category for one in category_means(scores).categories] == ["first"]
    with pytest.raises(ValueError, match="no scores"):
        category_means([])
