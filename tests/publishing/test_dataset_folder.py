"""Exported datasets: other tools read what the warehouse holds, the same bytes each time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.publishing.dataset_folder import (
    DatasetOptions,
    ExportedDataset,
    export_dataset_folder,
)
from refine_dagster.publishing.layouts import LayoutName
from refine_dagster.publishing.new_folder import FolderError
from refine_dagster.warehouse.warehouse import Warehouse

TEXTS = [
    {"instruction": "Name a colour.", "input": "", "output": "bright red"},
    {"instruction": "Count the letters of the word.", "input": "ship", "output": "4"},
]


def export(home: Home, layout: LayoutName, to: str = "out", **options: Any) -> ExportedDataset:
    return export_dataset_folder(home, layout, home.root.parent / to, DatasetOptions(**options))


def in_order(home: Home) -> list[dict[str, str]]:
    """The texts of the dataset's rows in the order of their ids."""
    found = Warehouse(home.warehouse).read("instruction_dataset")
    order = found.sort("row_id")["instruction"].to_list()
    return sorted(TEXTS, key=lambda texts: order.index(texts["instruction"]))


def loaded(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """Split -> rows, as `datasets.load_dataset(folder)` reads them."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    datasets.disable_progress_bars()
    read = datasets.load_dataset(str(folder))
    return {split: [dict(row) for row in rows] for split, rows in read.items()}


@pytest.mark.parametrize("layout", get_args(LayoutName))
def test_datasets_reads_every_layout_with_no_argument(
    small_home: Home, layout: LayoutName, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export(small_home, layout)
    splits = loaded(done.folder, tmp_path / "cache", monkeypatch)
    assert list(splits) == ["train"]
    rows = splits["train"]
    assert len(rows) == done.rows["train"] == (1 if layout == "preference" else 2)
    first = in_order(small_home)[0]
    if layout in ("hf", "alpaca"):
        assert rows == in_order(small_home)
    elif layout in ("jsonl", "csv", "parquet"):
        assert {"row_id", "reward", "policy", "coherence"} <= rows[0].keys()
        # CSV has no difference between an empty text and none.
        assert [{name: row[name] or "" for name in first} for row in rows] == in_order(small_home)
    elif layout == "messages":
        assert [message["role"] for message in rows[0]["messages"]] == ["user", "assistant"]
        assert rows[0]["messages"][1]["content"] == first["output"]
    elif layout == "sharegpt":
        said = rows[0]["conversations"]
        assert [(turn["from"], turn["value"]) for turn in said][1] == ("gpt", first["output"])
    elif layout == "prompt-completion":
        assert rows[0]["prompt"].startswith(f"Definition: {first['instruction']}")
        assert rows[0]["completion"] == f" {first['output']}"


def test_pandas_and_polars_read_the_files(small_home: Home) -> None:
    import pandas
    import polars

    expected = in_order(small_home)
    folder = export(small_home, "hf", "hf").folder / "data"
    file = folder / "train-00000-of-00001.parquet"
    assert polars.read_parquet(file).to_dicts() == expected
    assert pandas.read_parquet(file).to_dict("records") == expected
    file = export(small_home, "alpaca", "alpaca").folder / "data" / "train.jsonl"
    assert polars.read_ndjson(file).to_dicts() == expected
    assert pandas.read_json(file, lines=True, dtype=False).to_dict("records") == expected
    names = "instruction", "input", "output"
    file = export(small_home, "csv", "csv", columns=names).folder / "data" / "train.csv"
    assert polars.read_csv(file, infer_schema=False).fill_null("").to_dicts() == expected
    read = pandas.read_csv(file, keep_default_na=False, dtype=str)
    assert read.to_dict("records") == expected


def test_a_preference_is_of_one_instruction(small_home: Home) -> None:
    folder = export(small_home, "preference").folder
    (pair,) = [json.loads(line) for line in (folder / "data" / "train.jsonl").open()]
    assert pair["prompt"].endswith("Instruction: Name a colour.\nInput:")
    assert pair["chosen"] == " <noinput>\nOutput: bright red\n\nInstruction:"
    assert pair["rejected"] == " <noinput>\nOutput: red\n\nInstruction:"
    assert (pair["chosen_reward"], pair["rejected_reward"]) == (3.0, 2.0)


def test_an_instruction_with_a_blank_line_is_a_system_message() -> None:
    from refine_dagster.publishing.layouts import LAYOUTS

    row = {"instruction": "Do this:\n\ncount.", "input": "a b", "output": "2"}
    render = LAYOUTS["messages"].render
    assert render is not None
    said = [(turn["role"], turn["content"]) for turn in render(row)["messages"]]
    assert said == [("system", row["instruction"]), ("user", "a b"), ("assistant", "2")]


def test_columns_are_chosen_and_provenance_is_added(small_home: Home) -> None:
    chosen = export(small_home, "hf", "chosen", columns=("output", "reward", "seeds")).folder
    import polars

    read = polars.read_parquet(chosen / "data" / "train-00000-of-00001.parquet")
    assert read.columns == ["output", "reward", "seeds"]
    assert read["seeds"].to_list() == [["s1", "s2", "s3"]] * 2
    folder = export(small_home, "alpaca", "provenance", provenance=True).folder
    rows = [json.loads(line) for line in (folder / "data" / "train.jsonl").open()]
    ids = sorted(Warehouse(small_home.warehouse).read("instruction_dataset")["row_id"])
    assert [row["row_id"] for row in rows] == ids
    assert list(rows[0])[3:] == [
        "row_id",
        "seeds",
        "generation_prompt",
        "policy",
        "reward",
        "decision",
    ]
    with pytest.raises(RefineError, match=r"no column colour, shape.*\n.*coherence"):
        export(small_home, "hf", "unknown", columns=("output", "colour", "shape"))
    assert not (small_home.root.parent / "unknown").exists()


@pytest.mark.parametrize("layout", ["hf", "jsonl", "csv"])
def test_equal_data_gives_equal_bytes(small_home: Home, layout: LayoutName) -> None:
    first, second = (export(small_home, layout, name).folder for name in ("one", "two"))
    files = [path.name for path in (first / "data").iterdir()]
    assert len(files) == 1
    for name in files:
        assert (first / "data" / name).read_bytes() == (second / "data" / name).read_bytes()


def test_a_split_is_named_in_files_and_card(
    small_home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = export(small_home, "hf", validation=0.5, split_by="nearest")
    assert done.rows == {"train": 1, "validation": 1}
    splits = loaded(done.folder, tmp_path / "cache", monkeypatch)
    assert {split: len(rows) for split, rows in splits.items()} == done.rows
    with pytest.raises(RefineError, match="2 of 2 rows are linked"):
        export(small_home, "hf", "other", validation=0.5)


def test_the_card_says_what_was_made(small_home: Home) -> None:
    card = (export(small_home, "hf", licence="cc-by-4.0").folder / "README.md").read_text("utf-8")
    metadata = yaml.safe_load(card.split("---\n")[1])
    assert metadata["license"] == "cc-by-4.0"
    assert metadata["size_categories"] == ["n<1K"]
    assert "synthetic" in metadata["tags"]
    for line in (
        "| instructions | in | 6 |",
        "| instructions | kept | 3 |",
        "| instructions | too_similar | 1 |",
        "| instances, refined policy | in | 3 |",
        "| instances, refined policy | kept | 2 |",
        "| reward, mean | 2 |",
    ):
        assert line in card
    assert "This is the first export" in card
    again = (export(small_home, "hf", "again").folder / "README.md").read_text("utf-8")
    assert "Since the last export 0 rows came and 0 went; 2 are the same" in again


def test_what_left_is_recorded(small_home: Home) -> None:
    done = export(small_home, "hf")
    export_dataset_folder(small_home, "csv", done.folder, overwrite=True)
    warehouse = Warehouse(small_home.warehouse)
    (row,) = warehouse.read("exports").to_dicts()
    assert (row["path"], row["format"], row["rows"]) == (str(done.folder), "csv", 2)
    ids = set(warehouse.read("instruction_dataset")["row_id"])
    assert {parent["row_id"] for parent in row["parents"]} == ids


def test_a_failed_export_leaves_nothing(small_home: Home) -> None:
    to = small_home.root.parent / "papers"
    to.mkdir()
    (to / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(FolderError):
        export_dataset_folder(small_home, "hf", to, overwrite=True)
    with pytest.raises(RefineError, match="no instruction_dataset"):
        export_dataset_folder(Home(to.parent / "empty"), "hf", to.parent / "out")
    assert [path.name for path in to.iterdir()] == ["thesis.txt"]
    assert Warehouse(small_home.warehouse).read("exports").is_empty()
