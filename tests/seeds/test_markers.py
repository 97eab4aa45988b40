"""Seeds whose texts look like the format of prompts, and inputs that say that there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.prompts.example import Example, instance_prompt, read_instance, reads_back
from refine_dagster.seeds.readers import check_seeds, read_seeds

CASES = Path(__file__).parents[3] / "shared" / "cases"
needs_cases = pytest.mark.skipif(not CASES.is_dir(), reason="../shared/cases is absent")


def seeds_file(folder: Path, *records: object) -> str:
    path = folder / "seeds.jsonl"
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records), encoding="utf-8")
    return str(path)


def warned(path: str) -> list[int | None]:
    """The lines with a warning of marks."""
    return [problem.line for problem in check_seeds(path) if "begins like" in problem.message]


@pytest.mark.parametrize(
    ("example", "shown"),
    [
        (Example("Name a fruit.", "", "a pear"), True),
        (Example("Sort.\nKeep case.", "b\n\na", "a\n\nb"), True),
        (Example("Say what Input: means.", "Output: x", "The input, as in Input: x."), True),
        (Example("Answer.\nInput: red?\nOutput: a rose", "yellow?", "a lemon"), False),
        (Example("Task 3: Sing.", "", "la"), False),
        (Example("Read the log.", "x\nOutput: bad", "It failed."), False),
        (Example("Read the log.", "x", "It failed.\n\nInstruction: stop"), False),
        (Example("Read the log.", "x", "one\nOutput: two"), False),
    ],
)
def test_an_example_with_marks_is_not_shown(example: Example, shown: bool) -> None:
    assert reads_back(example) is shown


pieces = ["a", "b", " ", "\n", ":", "\nOutput:", "\nInput:", "\n\nInstruction:"]
fields = st.lists(st.sampled_from(pieces), max_size=9).map("".join)


@given(fields.map(str.strip), fields.map(str.strip))
def test_what_is_shown_is_read_back_unchanged(given_input: str, output: str) -> None:
    example = Example("Do it.", given_input, output)
    if not reads_back(example):
        return
    prompt = instance_prompt("Name a fruit.", [example])
    shown = prompt.split("Instruction: Do it.\nInput:", 1)[1].split("\n\nInstruction: Name a", 1)[0]
    read = read_instance(shown)
    assert (read.input, read.output, read.problem) == (given_input, output, None)


def test_seeds_check_warns_of_marks(tmp_path: Path) -> None:
    plain = {"instruction": "Name a fruit.", "output": "a pear"}
    marked = {"instruction": "Read it.", "input": "x\nInput: y", "output": "z"}
    path = seeds_file(tmp_path, plain, marked)
    assert warned(path) == [2]
    found = CliRunner().invoke(app, ["seeds", "check", path])
    assert found.exit_code == 0
    assert "it is not shown in prompts" in found.output


@pytest.mark.parametrize("text", ["<noinput>", "No input", "NOINPUT", "n/a", "None", "no-input"])
def test_no_input_is_read_however_it_is_written(tmp_path: Path, text: str) -> None:
    record = {"instruction": "Name a fruit.", "input": f" {text} ", "output": "a pear"}
    [seed] = read_seeds(seeds_file(tmp_path, record)).seeds
    assert seed.example.input == ""
    [plain] = read_seeds(seeds_file(tmp_path, {**record, "input": ""})).seeds
    assert seed == plain
    assert read_instance(f" {text}\nOutput: a pear").input == ""


@pytest.mark.parametrize("text", ["no inputs today", "none of them", "NA", "input", "0"])
def test_other_inputs_stay(tmp_path: Path, text: str) -> None:
    record = {"instruction": "Name a fruit.", "input": text, "output": "a pear"}
    assert read_seeds(seeds_file(tmp_path, record)).seeds[0].example.input == text


def test_findings_of_a_kind_are_counted(tmp_path: Path) -> None:
    path = seeds_file(tmp_path, *[{"instruction": "x", "output": n} for n in range(300)], "text")
    few = CliRunner().invoke(app, ["seeds", "check", path]).output.splitlines()
    assert len(few) == 7
    assert few[0].startswith(f"{path}:1: error: field `output`: expected text")
    assert few[-1] == "... and 295 more of: expected text, found a number"
    every = CliRunner().invoke(app, ["seeds", "check", "--all", path]).output.splitlines()
    assert len(every) == 301
    assert every[-1].startswith(f"{path}:301: error: expected an object")


def test_number_outputs_of_task_files_are_text(tmp_path: Path) -> None:
    task = {"Definition": "Count.", "Positive Examples": [{"input": "a b", "output": 2}]}
    task["Instances"] = [{"input": "c", "output": [1.5]}]
    (tmp_path / "task1.json").write_text(json.dumps(task))
    assert read_seeds(str(tmp_path)).seeds[0].example.output == "2"


@needs_cases
def test_cases_of_markers() -> None:
    assert warned(str(CASES / "markers_in_fields.jsonl")) == [1, 2]
    spelt = read_seeds(str(CASES / "noinput_spellings.jsonl"))
    assert len(spelt.seeds) == 7
    assert all(seed.example.input == "" for seed in spelt.seeds)
    assert len(spelt.warnings) == 1
    twice = read_seeds(str(CASES / "noinput_twice.jsonl"))
    assert (len(twice.seeds), len(twice.warnings)) == (1, 1)


@needs_cases
@pytest.mark.parametrize(
    ("name", "seeds", "errors"),
    [
        ("dictionary_column.parquet", 3, []),
        ("pandas_index_nan.parquet", 3, []),
        ("binary_column.parquet", 0, ["expected text, found binary"]),
        ("list_column.parquet", 0, ["expected text, found list<element: string>"]),
        ("null_instruction.parquet", 0, ["empty"]),
        ("windows_lines.csv", 0, ["no such column; the columns are: instruction;input..."] * 2),
        (
            "instances_shapes.jsonl",
            0,
            [
                "empty",
                "empty",
                "expected a list, found an object",
                "expected text, found a list",
                "expected a list, found null",
                "expected text, found a number",
                "expected text, found a number",
            ],
        ),
    ],
)
def test_cases_of_shapes(name: str, seeds: int, errors: list[str]) -> None:
    path = str(CASES / name)
    problems = check_seeds(path)
    assert [one.message for one in problems if one.severity == "error"] == errors
    if not errors:
        assert len(read_seeds(path).seeds) == seeds
