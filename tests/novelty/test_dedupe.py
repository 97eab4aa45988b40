"""`refine-dagster dedupe` on files of each kind, and what it says of files it cannot read."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from refine_dagster import progress
from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.novelty import NoveltyFilter
from refine_dagster.novelty.dedupe import dedupe_file

TEXTS = [
    "Name three animals that live in the sea.",
    "Name three animals that live in the river.",
    "Translate the sentence.",
    "名前を三つ",
    "Translate the sentence.",
]
KEPT = [True, False, True, True, False]


def jsonl(path: Path, texts: list[str]) -> Path:
    lines = [json.dumps({"instruction": text, "n": n}) for n, text in enumerate(texts)]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def decisions(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_jsonl_keeps_lines_as_they_are(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", TEXTS)
    found = CliRunner().invoke(app, ["dedupe", str(file)])
    assert found.exit_code == 0, found.output
    assert "kept 3 of 5 rows" in found.output
    assert "1 rows were compared by the tokenizer `unicode`" in found.output
    kept = (tmp_path / "made.kept.jsonl").read_text(encoding="utf-8").splitlines()
    lines = file.read_text(encoding="utf-8").splitlines()
    assert kept == [lines[0], lines[4], lines[6]]
    told = decisions(tmp_path / "made.decisions.jsonl")
    rouge = {"tokenizer": "rouge_score"}
    assert told == [
        {"row": 1, "kept": True, **rouge},
        {"row": 3, "kept": False, **rouge, "score": 0.875, "nearest": 1, "nearest_in": str(file)},
        {"row": 5, "kept": True, **rouge},
        {"row": 7, "kept": True, "tokenizer": "unicode"},
        {"row": 9, "kept": False, **rouge, "score": 1.0, "nearest": 5, "nearest_in": str(file)},
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "made.decisions.jsonl",
        "made.jsonl",
        "made.kept.jsonl",
    ]


def test_csv_and_parquet(tmp_path: Path) -> None:
    rows = [{"id": n, "text": text + "\n, more"} for n, text in enumerate(TEXTS)]
    comma = tmp_path / "made.csv"
    with comma.open("w", newline="", encoding="utf-8-sig") as stream:
        writer = csv.DictWriter(stream, ["id", "text"])
        writer.writeheader()
        writer.writerows(rows)
    columns = tmp_path / "made.parquet"
    pq.write_table(pa.Table.from_pylist(rows), columns)
    of_comma = dedupe_file(comma, "text", NoveltyFilter())
    assert [bool(one["kept"]) for one in decisions(of_comma.decisions_file)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert [one["row"] for one in decisions(of_comma.decisions_file)] == [2, 4, 6, 8, 10]
    with of_comma.kept_file.open(newline="", encoding="utf-8") as stream:
        assert [row["id"] for row in csv.DictReader(stream)] == ["0", "2", "3"]
    of_columns = dedupe_file(columns, "text", NoveltyFilter(), overwrite=True)
    assert pq.read_table(of_columns.kept_file).to_pylist() == [
        row for row, kept in zip(rows, KEPT, strict=True) if kept
    ]
    assert pq.read_table(of_columns.kept_file).schema.equals(pq.read_table(columns).schema)


def test_against_another_file(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", TEXTS)
    seeds = jsonl(tmp_path / "seeds.jsonl", ["Something else.", "Translate the sentence!"])
    found = dedupe_file(file, "instruction", NoveltyFilter(), against=seeds)
    assert (found.rows, found.kept) == (5, 2)
    told = decisions(found.decisions_file)
    assert (told[2]["nearest"], told[2]["nearest_in"]) == (3, str(seeds))
    assert (told[1]["nearest"], told[1]["nearest_in"]) == (1, str(file))


def test_options_reach_the_filter(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", ["jumping foxes", "jumped fox", "a b c d", "a b x y"])

    def kept(*options: str) -> int:
        command = ["dedupe", str(file), "--overwrite", *options]
        found = CliRunner().invoke(app, command)
        assert found.exit_code == 0, found.output
        return sum(bool(one["kept"]) for one in decisions(tmp_path / "made.decisions.jsonl"))

    assert kept() == 4
    assert kept("--stem") == 3
    assert kept("--threshold", "0.5") == 3
    assert kept("--threshold", "0.5", "--refuse-at", "exceeds") == 4


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        (
            "a.jsonl",
            b'{"instruction": "a"}\n{"text": "b"}\n',
            r"line 2: no column `instruction`; .*`text`",
        ),
        (
            "a.jsonl",
            b'{"instruction": "a"}\n\n{"instruction": 3}\n',
            "line 3: column `instruction` holds int",
        ),
        ("a.jsonl", b'{"instruction": null}\n', "line 1: column `instruction` holds null"),
        ("a.jsonl", b'{"instruction": "a"}\n{"instruc', "line 2: broken JSON"),
        ("a.jsonl", b'{"instruction": "\xff"}\n', "line 1: not UTF-8"),
        ("a.jsonl", b"[1]\n", "line 1: not a JSON object"),
        ("a.csv", b"text,n\na,1\n", "line 1: no column `instruction`"),
        ("a.csv", b'instruction,n\n"a\nb",1\nc\n', "line 4: 1 cells, the header has 2"),
        ("a.csv", b'instruction\n"a\n', "line 2: broken CSV"),
        ("a.csv", b"", "line 1: no column `instruction`; there are none"),
        ("a.parquet", b"PAR1 not really", "not a Parquet file"),
        ("a.txt", b"a", "unknown extension `.txt`"),
    ],
)
def test_files_that_cannot_be_decided_on(
    tmp_path: Path, name: str, data: bytes, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(data)
    with pytest.raises(RefineError, match=message) as caught:
        dedupe_file(file, "instruction", NoveltyFilter())
    assert str(file) in str(caught.value)
    assert not list(tmp_path.glob("a.kept.*l")) + list(tmp_path.glob("*decisions.jsonl"))


def test_a_result_is_not_replaced_unasked(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", TEXTS)
    dedupe_file(file, "instruction", NoveltyFilter())
    with pytest.raises(RefineError, match="exists already"):
        dedupe_file(file, "instruction", NoveltyFilter())
    with pytest.raises(RefineError, match="no such file"):
        dedupe_file(tmp_path / "none.jsonl", "instruction", NoveltyFilter())


def test_an_interruption_leaves_what_was_decided(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", [f"text number {n} of {n * n}" for n in range(5000)])

    class Interrupting(progress.CallbackReporter):
        def advance(self, handle: int, steps: int, figures: dict[str, progress.Figure]) -> None:
            raise KeyboardInterrupt

    with progress.reporting(Interrupting(lambda line: None)), pytest.raises(KeyboardInterrupt):
        dedupe_file(file, "instruction", NoveltyFilter())
    assert not (tmp_path / "made.kept.jsonl").exists()
    partly = decisions(tmp_path / "made.decisions.jsonl.part")
    assert len(partly) == 4096
    whole = dedupe_file(file, "instruction", NoveltyFilter())
    assert decisions(whole.decisions_file)[:4096] == partly
    assert not list(tmp_path.glob("*.part"))


def test_it_imports_nothing_heavy(tmp_path: Path) -> None:
    file = jsonl(tmp_path / "made.jsonl", TEXTS)
    code = (
        "import sys; from refine_dagster.cli import app;"
        f"app(['dedupe', {str(file)!r}], standalone_mode=False);"
        "heavy = {'torch', 'dagster', 'duckdb', 'transformers'} & set(sys.modules);"
        "sys.exit(1 if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
