"""Seed files: every format, every documented outcome, and no traceback on any bytes."""

from __future__ import annotations

import csv
import json
import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_dagster.errors import RefineError
from refine_dagster.hashing import content_id
from refine_dagster.seeds import readers
from refine_dagster.seeds.formats import FORMATS
from refine_dagster.seeds.problems import SeedFileError, SeedProblem
from refine_dagster.seeds.readers import check_seeds, read_seeds
from refine_dagster.seeds.task import SeedInstance, SeedTask, normal_field, normal_instruction
from refine_dagster.warehouse.tables import TABLES

SHARED = Path(__file__).parents[3] / "shared" / "data" / "self_instruct_seed_tasks.jsonl"
FRUIT = {"instruction": "Name a fruit.", "input": "", "output": "a pear"}
PLURAL = {"instruction": "Make it plural.", "input": "hen", "output": "hens"}
SCHEMA = {
    "id": "t1",
    "name": "plural",
    "instruction": "Make it plural.",
    "instances": [{"input": "hen", "output": "hens"}, {"input": "cow", "output": "cows"}],
    "is_classification": False,
}


def write(path: Path, data: bytes | str) -> str:
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return str(path)


def jsonl(path: Path, *records: object) -> str:
    return write(path / "seeds.jsonl", "".join(f"{json.dumps(record)}\n" for record in records))


def errors(path: str) -> list[SeedProblem]:
    """The errors of a file that must be refused, the same from both doors."""
    found = check_seeds(path)
    with pytest.raises(SeedFileError) as refused:
        read_seeds(path)
    assert refused.value.problems == found
    assert isinstance(refused.value, RefineError)
    return [problem for problem in found if problem.severity == "error"]


def only_error(path: str) -> SeedProblem:
    found = errors(path)
    assert len(found) == 1, found
    assert found[0].fix
    return found[0]


# --- formats


def test_self_instruct_and_plain_lines_mix(tmp_path: Path) -> None:
    seeds = read_seeds(jsonl(tmp_path, SCHEMA, FRUIT)).seeds
    fruit, plural = seeds
    assert plural == SeedTask(
        "t1",
        "plural",
        "Make it plural.",
        (SeedInstance("hen", "hens"), SeedInstance("cow", "cows")),
        False,
    )
    assert fruit.seed_id.startswith("jsonl-")
    assert fruit.name == fruit.seed_id
    assert fruit.example.output == "a pear"


def test_alpaca_list(tmp_path: Path) -> None:
    path = write(tmp_path / "alpaca.json", json.dumps([FRUIT, {**PLURAL, "text": "x"}], indent=1))
    file = read_seeds(path)
    assert {seed.instruction for seed in file.seeds} == {"Name a fruit.", "Make it plural."}
    assert all(seed.seed_id.startswith("alpaca-") for seed in file.seeds)
    assert file.warnings == []
    assert file.source == path


def test_csv_with_commas_and_line_breaks_in_cells(tmp_path: Path) -> None:
    path = tmp_path / "seeds.csv"
    with path.open("w", newline="", encoding="utf-8") as stream:
        rows = csv.writer(stream)
        rows.writerow(["id", "instruction", "input", "output", "is_classification"])
        rows.writerow(["a", "Sort, please.", "b\na", "a, b", "no"])
        rows.writerow(["b", "Is it hot?", "ice", "no", "TRUE"])
    first, second = read_seeds(str(path)).seeds
    assert first.example.input == "b\na"
    assert (first.is_classification, second.is_classification) == (False, True)


def test_parquet_written_by_polars(tmp_path: Path) -> None:
    path = tmp_path / "seeds.parquet"
    polars.DataFrame(
        {
            "instruction": ["Name a fruit.", "Is it hot?"],
            "input": [None, "ice"],
            "output": ["a pear", "no"],
            "is_classification": [None, True],
        }
    ).write_parquet(path)
    seeds = {seed.instruction: seed for seed in read_seeds(str(path)).seeds}
    assert seeds["Name a fruit."].example.input == ""
    assert seeds["Is it hot?"].is_classification is True
    assert all(seed.seed_id.startswith("parquet-") for seed in seeds.values())


def test_parquet_may_hold_instances(tmp_path: Path) -> None:
    path = tmp_path / "seeds.parquet"
    polars.DataFrame([SCHEMA]).write_parquet(path)
    assert read_seeds(str(path)).seeds[0].instances[1] == SeedInstance("cow", "cows")


def test_super_ni_folder(tmp_path: Path) -> None:
    labelled = [{"input": f"x{n}", "output": ["yes" if n % 2 else "no"]} for n in range(8)]
    first = {
        "Definition": ["Say yes or no.", "A second paraphrase."],
        "Positive Examples": [{"input": "x", "output": "yes", "explanation": "e"}],
        "Instances": labelled,
    }
    second = {
        "Definition": "Count the words.",
        "Instances": [{"input": "w " * n, "output": [str(n), "many"]} for n in range(1, 9)],
    }
    write(tmp_path / "task001_yes.json", json.dumps(first))
    write(tmp_path / "task002_count.json", json.dumps(second))
    write(tmp_path / "README.md", "not a task")
    write(tmp_path / "._task001_yes.json", b"\0\0")
    yes, count = read_seeds(str(tmp_path)).seeds
    assert (yes.seed_id, yes.instruction) == ("task001_yes", "Say yes or no.")
    assert yes.instances == (SeedInstance("x", "yes"),)
    assert yes.is_classification
    assert count.instances[0] == SeedInstance("w", "1")
    assert len(count.instances) == 5
    assert not count.is_classification


def test_the_same_task_has_the_same_derived_id_wherever_it_stands(tmp_path: Path) -> None:
    one = read_seeds(jsonl(tmp_path, FRUIT, PLURAL))
    other = read_seeds(jsonl(tmp_path, PLURAL, FRUIT))
    assert one.seeds == other.seeds
    assert one.content_hash == other.content_hash


@pytest.mark.skipif(not SHARED.is_file(), reason="../shared/data is absent")
def test_the_175_seeds_of_self_instruct_read_without_a_finding() -> None:
    file = read_seeds(str(SHARED))
    assert len(file.seeds) == 175
    assert file.warnings == []
    assert len({seed.payload_hash for seed in file.seeds}) == 175


# --- rows and white space


def test_rows_have_the_columns_of_the_table(tmp_path: Path) -> None:
    seed = read_seeds(jsonl(tmp_path, SCHEMA)).seeds[0]
    assert list(seed.row()) == list(TABLES["seed_tasks"].columns)
    assert seed.row()["instances"] == SCHEMA["instances"]
    assert seed.row()["input"] == "hen"
    assert seed.payload_hash == content_id("seed_tasks", seed.row())


def test_a_cosmetic_edit_changes_no_row(tmp_path: Path) -> None:
    plain = {**SCHEMA, "instances": [{"input": "a\n  b", "output": "c d"}]}
    spaced = {
        "is_classification": False,
        "instances": [{"output": "c d \r\n", "input": "a\t\r\n  b"}],
        "instruction": "  Make\tit   plural.\r\n",
        "id": " t1 ",
        "name": "plural\n",
    }
    before, after = read_seeds(jsonl(tmp_path, plain)), read_seeds(jsonl(tmp_path, spaced))
    assert before.content_hash == after.content_hash
    assert before.seeds[0].payload_hash == after.seeds[0].payload_hash


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Make it plural!"},
        {"name": "other"},
        {"id": "t2"},
        {"is_classification": True},
        {"instances": [{"input": "hen", "output": "hens"}]},
        {"instances": [{"input": "h en", "output": "hens"}, {"input": "cow", "output": "cows"}]},
    ],
)
def test_a_real_edit_changes_the_row(tmp_path: Path, change: dict[str, Any]) -> None:
    before = read_seeds(jsonl(tmp_path, SCHEMA)).seeds[0].payload_hash
    assert read_seeds(jsonl(tmp_path, {**SCHEMA, **change})).seeds[0].payload_hash != before


@given(st.text())
def test_normalising_twice_is_normalising_once(text: str) -> None:
    assert normal_instruction(normal_instruction(text)) == normal_instruction(text)
    assert normal_field(normal_field(text)) == normal_field(text)


# --- bad records


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = jsonl(
        tmp_path,
        {**FRUIT, "output": " "},
        {**SCHEMA, "instances": [{"input": 3, "output": ""}, "x"], "is_classification": "yes"},
        ["not", "an", "object"],
        {"instuction": "Misspelt.", "output": "x"},
        FRUIT,
    )
    found = errors(path)
    assert [(problem.line, problem.field) for problem in found] == [
        (1, "output"),
        (2, "instances[0].input"),
        (2, "instances[0].output"),
        (2, "instances[1]"),
        (2, "is_classification"),
        (3, None),
        (4, "instruction"),
    ]
    assert found[1].message == "expected text, found a number"
    assert "instuction" in found[6].message
    assert all(problem.file == path and problem.fix for problem in found)
    misspelt = [problem for problem in check_seeds(path) if problem.severity == "warning"]
    assert [(one.field, one.fix) for one in misspelt] == [
        ("instuction", "rename it to `instruction`")
    ]
    with pytest.raises(SeedFileError) as refused:
        read_seeds(path)
    for problem in found:
        assert str(problem) in str(refused.value)


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"instruction": ""}, "instruction", "empty"),
        ({"instruction": None}, "instruction", "empty"),
        ({"instruction": ["a"]}, "instruction", "expected text, found a list"),
        ({"output": 7}, "output", "expected text, found a number"),
        ({"output": True}, "output", "expected text, found true or false"),
        ({"input": {}}, "input", "expected text, found an object"),
        ({"id": 1}, "id", "expected text, found a number"),
        ({"id": "i" * 201}, "id", "201 characters long"),
        ({"is_classification": 1}, "is_classification", "expected true or false, found a number"),
        ({"instances": {}}, "instances", "expected a list, found an object"),
        ({"instances": []}, "instances", "empty"),
        ({"instruction": "a\0b"}, "instruction", "NUL character at character 2"),
        ({"output": "a\ud800"}, "output", "half a surrogate pair at character 2"),
        ({"instruction": "a" * 1_000_000}, "instruction", "1,000,000 characters long"),
    ],
)
def test_a_bad_field_is_named(
    tmp_path: Path, change: dict[str, Any], field: str, message: str
) -> None:
    for path in (
        jsonl(tmp_path, PLURAL, {**FRUIT, **change}),
        write(tmp_path / "a.json", json.dumps([PLURAL, {**FRUIT, **change}], indent=None)),
    ):
        problem = only_error(path)
        assert problem.field == field
        assert message in problem.message
        assert problem.line == (2 if path.endswith("jsonl") else 1)
        assert len(str(problem)) < 1000


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    problem = only_error(jsonl(tmp_path, SCHEMA, PLURAL, {**FRUIT, "id": "t1"}))
    assert (problem.line, problem.field) == (3, "id")
    assert problem.message == "`t1` is already the id of the task on line 1"


def test_of_duplicate_content_the_smallest_id_stays_in_any_order(tmp_path: Path) -> None:
    records: list[object] = [{**FRUIT, "id": "b"}, {**FRUIT, "id": "a", "output": " a pear\n"}]
    for order in (records, records[::-1]):
        file = read_seeds(jsonl(tmp_path, *order))
        assert [seed.seed_id for seed in file.seeds] == ["a"]
        (warning,) = file.warnings
        assert warning.severity == "warning"
        assert warning.line == order.index(records[0]) + 1
        assert "`a` on line" in warning.message


def test_duplicate_content_without_ids_is_a_warning(tmp_path: Path) -> None:
    file = read_seeds(jsonl(tmp_path, FRUIT, PLURAL, FRUIT))
    assert len(file.seeds) == 2
    assert [(one.severity, one.line) for one in file.warnings] == [("warning", 3)]


# --- bad files


def test_bom_and_crlf_are_accepted(tmp_path: Path) -> None:
    plain = read_seeds(jsonl(tmp_path, FRUIT, PLURAL))
    data = (tmp_path / "seeds.jsonl").read_bytes()
    file = read_seeds(write(tmp_path / "b.jsonl", b"\xef\xbb\xbf" + data.replace(b"\n", b"\r\n")))
    assert file.seeds == plain.seeds
    assert [one.severity for one in file.warnings] == ["note"]
    text = "\ufeffinstruction,input,output\r\nName a fruit.,,a pear\r\n"
    assert read_seeds(write(tmp_path / "b.csv", text)).seeds[0].example.output == "a pear"


def test_bytes_that_are_not_utf8_name_offset_and_line(tmp_path: Path) -> None:
    good = json.dumps(FRUIT).encode() + b"\r\n"
    bad = b'{"instruction": "caf\xe9 ", "output": "x"}\r\n'
    data = good + bad + b'{"instruction": "", "output": "x"}\r\n' + bad
    found = errors(write(tmp_path / "latin.jsonl", data))
    assert [(problem.line, problem.field) for problem in found] == [
        (2, None),
        (3, "instruction"),
        (4, None),
    ]
    offset = data.index(b"\xe9")
    assert found[0].message == f"not UTF-8: byte 0xe9 at byte {offset} of the file"
    assert str(data.rindex(b"\xe9")) in found[2].message


def test_utf16_is_recognised(tmp_path: Path) -> None:
    data = json.dumps(FRUIT).encode("utf-16")
    assert "UTF-16" in errors(write(tmp_path / "s.jsonl", data))[0].message


def test_nul_bytes(tmp_path: Path) -> None:
    line = json.dumps(FRUIT)
    problem = only_error(write(tmp_path / "s.jsonl", f"{line}\n{line[:5]}\0{line[5:]}\n"))
    assert (problem.line, problem.message) == (2, "NUL character at character 6")
    problem = only_error(write(tmp_path / "s.json", f"[{line},\n{line[:5]}\0{line[5:]}]"))
    assert problem.line == 2
    assert "NUL" in problem.message
    problem = only_error(write(tmp_path / "s.csv", "instruction,output\nSay\0 it.,it\n"))
    assert (problem.line, problem.field) == (2, "instruction")
    assert "NUL" in problem.message


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"instruction": "x"', "broken JSON: Expecting ',' delimiter"),
        ("{} {}", "text after the object"),
        ('{"output": "a", "output": "b"}', "the field `output` is there twice"),
        ("[" * 100_000, "nested too deeply"),
        ("9" * 10_000, "too many digits"),
        ("NaN", "expected an object, found a number"),
    ],
)
def test_a_broken_line_hides_no_other(tmp_path: Path, line: str, message: str) -> None:
    bad = json.dumps({**FRUIT, "output": ""})
    found = errors(write(tmp_path / "s.jsonl", f"{json.dumps(FRUIT)}\n\n{line}\n{bad}"))
    assert [problem.line for problem in found] == [3, 4]
    assert message in found[0].message


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("{}", 1, "expected a list of tasks"),
        ("\n[\n{} {}]", 3, "expected a comma"),
        ('[{"a": 1},\n\n]', 3, "Expecting value"),
        ('[\n{"instruction": "x",\n\n"output" 3}]', 4, "Expecting ':' delimiter"),
        ("[\n[1]\n]\n{}", 2, "expected an object, found a list"),
        ("[]]", 1, "text after the end of the list"),
    ],
)
def test_broken_lists_name_the_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    found = errors(write(tmp_path / "s.json", text))
    assert any(problem.line == line and message in problem.message for problem in found), found


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("instruction;output\na;b\n", 1, "no such column"),
        ("instruction,output,output\n", 1, "two columns of this name"),
        ("instruction,output\na,b\n\na,b,c\n", 4, "3 cells, the header has 2"),
        ('instruction,output\na,"b\n', 2, "broken CSV"),
        ('instruction,output\n"a\nb",\n', 2, "empty"),
        ("instruction,output,is_classification\na,b,maybe\n", 2, "found 'maybe'"),
        (f"instruction,output\n{'a' * 1_000_000},b\n", 2, "1,000,000 characters long"),
    ],
)
def test_bad_csv_names_the_line(tmp_path: Path, text: str, line: int, message: str) -> None:
    limit = csv.field_size_limit()
    found = errors(write(tmp_path / "s.csv", text))
    assert any(problem.line == line and message in problem.message for problem in found), found
    assert csv.field_size_limit() == limit


def test_bad_parquet(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    assert "not a sound Parquet file" in only_error(write(path, b"PAR1 no PAR1")).message
    polars.DataFrame({"instruction": ["a"], "output": [3]}).write_parquet(path)
    problem = only_error(str(path))
    assert (problem.field, problem.message) == ("output", "expected text, found int64")
    polars.DataFrame({"instruction": ["a"]}).write_parquet(path)
    assert only_error(str(path)).field == "output"
    polars.DataFrame({"instruction": ["a", ""], "output": ["b", "c"]}).write_parquet(path)
    problem = only_error(str(path))
    assert (problem.line, problem.field) == (2, "instruction")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("s.jsonl", ""),
        ("s.jsonl", " \n\n"),
        ("s.jsonl", "\ufeff"),
        ("s.json", ""),
        ("s.json", "[ ]"),
        ("s.csv", ""),
        ("s.csv", "instruction,output\n"),
        ("s.parquet", ""),
    ],
)
def test_a_file_without_tasks_is_an_error(tmp_path: Path, name: str, content: str) -> None:
    assert only_error(write(tmp_path / name, content)).message == "holds no seed task"


def test_a_folder_without_task_files_is_an_error(tmp_path: Path) -> None:
    assert only_error(str(tmp_path)).message == "a folder without .json files"


def test_bad_task_files_are_all_named(tmp_path: Path) -> None:
    example = {"input": "a", "output": "b"}
    write(tmp_path / "a.json", "[1]")
    write(tmp_path / "b.json", json.dumps({"Positive Examples": [example]}))
    write(tmp_path / "c.json", json.dumps({"Definition": "x", "Instances": []}))
    write(
        tmp_path / "d.json",
        json.dumps({"Definition": ["x"], "Positive Examples": [example, {"output": []}]}, indent=1),
    )
    write(tmp_path / "e.json", json.dumps({"Definition": "x", "Positive Examples": [example]}))
    (tmp_path / "f.json").mkdir()
    write(tmp_path / "g.json", "{} {}")
    found = {Path(one.file).name: (one.line, one.field) for one in errors(str(tmp_path))}
    assert found == {
        "a.json": (1, None),
        "b.json": (1, "Definition"),
        "c.json": (1, "Instances"),
        "d.json": (5, "Positive Examples[1].output"),
        "f.json": (None, None),
        "g.json": (1, None),
    }


@pytest.mark.parametrize("path", ["", "no/such/file.jsonl", "no\0name.jsonl", "\ud800.jsonl"])
def test_no_such_file(path: str) -> None:
    assert only_error(path).message == "no such file or folder"


def test_unknown_extension_lists_the_known_ones(tmp_path: Path) -> None:
    problem = only_error(write(tmp_path / "seeds.txt", "x"))
    assert "`.txt`" in problem.message
    assert all(extension in problem.fix for extension in FORMATS)
    assert only_error(write(tmp_path / "seeds", "x")).message == "no extension"


def test_a_pipe_and_a_huge_file_are_refused_without_reading(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jsonl"
    os.mkfifo(pipe)
    assert only_error(str(pipe)).message == "not a regular file"
    huge = tmp_path / "huge.jsonl"
    with huge.open("wb") as stream:
        stream.truncate(readers.MAX_FILE_BYTES + 1)  # sparse: takes no room
    assert only_error(str(huge)).message == "larger than 256 MiB"


@pytest.fixture
def unprivileged_folder() -> Iterator[Path]:
    """A folder that a user without privileges can enter; the test runs as such a user."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        user = os.geteuid()
        locked = folder / "locked.jsonl"
        locked.write_text(json.dumps(FRUIT), encoding="utf-8")
        locked.chmod(0)
        if user == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            os.seteuid(user)


def test_a_file_without_permission_is_an_error(unprivileged_folder: Path) -> None:
    problem = only_error(str(unprivileged_folder / "locked.jsonl"))
    assert problem.message == "cannot be read: Permission denied"


# --- any bytes


def refuses_or_reads(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    found = check_seeds(str(path))
    if any(problem.severity == "error" for problem in found):
        with pytest.raises(SeedFileError) as refused:
            read_seeds(str(path))
        assert refused.value.problems == found
        assert str(refused.value).encode()
    else:
        seeds = read_seeds(str(path)).seeds
        assert len({seed.payload_hash for seed in seeds}) == len(seeds) > 0
    assert all(str(problem).encode() for problem in found)


PIECES = st.sampled_from(
    [
        *(b'{"', b'"}', b'": "', b'"', b"[", b"]", b",", b": ", b" ", b"\n", b"\r", b"\0"),
        *(b"instruction", b"output", b"instances", b"null", b"a"),
        *(b"\xef\xbb\xbf", b"\xe9", b"\xe2\x80", b"\\ud800"),
    ]
)
ANY_BYTES = st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=30).map(b"".join))


@pytest.mark.parametrize("extension", sorted(FORMATS))
@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=ANY_BYTES)
def test_no_bytes_crash_a_reader(
    extension: str, data: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    refuses_or_reads(tmp_path_factory.getbasetemp() / f"fuzz{extension}", data)


@pytest.mark.parametrize("extension", [*sorted(FORMATS), "folder"])
def test_no_damage_to_a_good_file_crashes_a_reader(tmp_path: Path, extension: str) -> None:
    path = tmp_path / f"good{extension}"
    if extension == ".parquet":
        polars.DataFrame([SCHEMA, {**SCHEMA, "id": "t2"}]).write_parquet(path)
    elif extension == ".csv":
        polars.DataFrame([FRUIT, PLURAL]).write_csv(path)
    elif extension == ".json":
        write(path, json.dumps([FRUIT, SCHEMA]))
    elif extension == "folder":
        task = {"Definition": ["x"], "Positive Examples": [{"input": "a", "output": "b"}]}
        path = tmp_path / "task.json"
        write(path, json.dumps(task))
    else:
        write(path, f"{json.dumps(FRUIT)}\n{json.dumps(SCHEMA)}\n")
    data = path.read_bytes()
    draw = random.Random(7)
    for _ in range(200):
        damaged = bytearray(data)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if extension == "folder":
            path.write_bytes(damaged)
            assert isinstance(check_seeds(str(tmp_path)), list)
        else:
            refuses_or_reads(path, bytes(damaged))
