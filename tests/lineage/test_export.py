"""Exports: what other tools read is what the dataset holds, and a failed export leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import polars
import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.lineage.export import (
    ExportError,
    ExportFormat,
    export_dataset,
    export_live_dataset,
)
from tests.builders.small_warehouse import small_warehouse

FORMATS = get_args(ExportFormat)
ROWS = [
    {
        "row_id": row_id,
        "instruction": instruction,
        "input": given,
        "output": output,
        "policy": policy,
        "reward": reward,
        "parents": [{"asset": "filtered_instructions", "row_id": "f" + row_id, "role": "of"}],
    }
    for row_id, instruction, given, output, policy, reward in [
        ("c3", 'Say "hello".', "", "hello\nthere", "p2", 0.5),
        ("a1", "Name the colour.", "grass, été \u2028 海", "green", "p1", -0.25),
        ("b2", "Count the words.", "one two", "2", "p1", 0.125),
    ]
]
FRAME = polars.DataFrame(ROWS)


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def _load(kind: str, file: Path, cache: Path) -> list[dict[str, Any]]:
    import datasets

    datasets.disable_progress_bars()
    loaded = datasets.load_dataset(kind, data_files=str(file), split="train", cache_dir=str(cache))
    return [dict(row) for row in loaded]


def test_datasets_reads_alpaca(tmp_path: Path) -> None:
    export_dataset(FRAME, "alpaca", tmp_path / "d.json")
    expected = [
        {key: row[key] for key in ("instruction", "input", "output")}
        for row in sorted(ROWS, key=lambda row: str(row["row_id"]))
    ]
    assert _load("json", tmp_path / "d.json", tmp_path / "cache") == expected
    assert json.loads((tmp_path / "d.json").read_text(encoding="utf-8")) == expected


def test_datasets_reads_messages(tmp_path: Path) -> None:
    export_dataset(FRAME, "messages", tmp_path / "d.jsonl")
    rows = _load("json", tmp_path / "d.jsonl", tmp_path / "cache")
    assert [row["row_id"] for row in rows] == ["a1", "b2", "c3"]
    assert rows[1]["messages"] == [
        {"role": "user", "content": "Count the words.\n\none two"},
        {"role": "assistant", "content": "2"},
    ]
    assert rows[2]["messages"] == [
        {"role": "user", "content": 'Say "hello".'},
        {"role": "assistant", "content": "hello\nthere"},
    ]


def test_datasets_reads_parquet_with_every_column(tmp_path: Path) -> None:
    export_dataset(FRAME, "parquet", tmp_path / "d.parquet")
    rows = _load("parquet", tmp_path / "d.parquet", tmp_path / "cache")
    assert rows == sorted(ROWS, key=lambda row: str(row["row_id"]))


@pytest.mark.parametrize("format", FORMATS)
def test_the_bytes_do_not_depend_on_the_order_of_rows(tmp_path: Path, format: ExportFormat) -> None:
    first = export_dataset(FRAME, format, tmp_path / "1" / "d", data_version="v")
    second = export_dataset(FRAME.reverse(), format, tmp_path / "2" / "d", data_version="v")
    assert first.sha256 == second.sha256
    for one, other in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("format", FORMATS)
def test_the_provenance_names_the_file(tmp_path: Path, format: ExportFormat) -> None:
    result = export_dataset(FRAME, format, tmp_path / "d.out", data_version="v7")
    file, card = result.files
    assert card.name == "d.out.provenance.json"
    told = json.loads(card.read_text(encoding="utf-8"))
    assert told == {
        "columns": FRAME.columns if format == "parquet" else None,
        "data_version": "v7",
        "file": "d.out",
        "format": format,
        "policies": ["p1", "p2"],
        "rows": 3,
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
    }
    assert result.sha256 == told["sha256"]
    assert result.rows == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["d.out", "d.out.provenance.json"]


def test_a_file_that_is_there_stays_unless_overwriting_is_allowed(tmp_path: Path) -> None:
    target = tmp_path / "d.json"
    target.write_text("mine")
    with pytest.raises(ExportError, match="the file exists"):
        export_dataset(FRAME, "alpaca", target)
    assert [path.name for path in tmp_path.iterdir()] == ["d.json"]
    assert target.read_text() == "mine"
    with pytest.raises(ExportError, match="is not as an export wrote it"):
        export_dataset(FRAME, "alpaca", target, overwrite=True)
    assert target.read_text() == "mine"
    target.unlink()
    export_dataset(FRAME, "alpaca", target)
    export_dataset(FRAME.head(1), "alpaca", target, overwrite=True)
    assert len(json.loads(target.read_text(encoding="utf-8"))) == 1
    card = json.loads((tmp_path / "d.json.provenance.json").read_text())
    assert card["rows"] == 1


def test_only_what_an_export_wrote_is_replaced(tmp_path: Path) -> None:
    target, card = tmp_path / "d.json", tmp_path / "d.json.provenance.json"
    written = export_dataset(FRAME, "alpaca", target)
    card.unlink()
    with pytest.raises(ExportError, match="is not as an export wrote it"):
        export_dataset(FRAME, "alpaca", target, overwrite=True)
    export_dataset(FRAME, "alpaca", target, overwrite=True, recorded=[written.sha256])
    target.write_text("edited")
    with pytest.raises(ExportError, match="is not as an export wrote it"):
        export_dataset(FRAME, "alpaca", target, overwrite=True, recorded=[written.sha256])
    target.unlink()
    card.write_text("mine")
    with pytest.raises(ExportError, match=r"provenance\.json: is not as an export wrote it"):
        export_dataset(FRAME, "alpaca", target, overwrite=True)
    assert card.read_text() == "mine"
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ExportError, match="is no regular file"):
        export_dataset(FRAME, "alpaca", pipe, overwrite=True)


def test_the_homes_files_are_no_target(tmp_path: Path) -> None:
    home = tmp_path / "home"
    warehouse = small_warehouse(home / "warehouse.duckdb")
    before = warehouse.path.read_bytes()
    link = tmp_path / "link.json"
    link.symlink_to(warehouse.path)
    for target in (warehouse.path, home / "checkpoints" / "x" / "model.safetensors", link):
        with pytest.raises(ExportError, match="lies in the home"):
            export_live_dataset(warehouse, "alpaca", target, overwrite=True)
    assert warehouse.path.read_bytes() == before
    assert [path.name for path in home.iterdir()] == ["warehouse.duckdb"]


def test_a_tilde_is_the_users_folder_and_new_folders_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = small_warehouse(tmp_path / "home" / "warehouse.duckdb")
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("REFINE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["export", "--to", "~/a/x.json"]).output
    assert told.splitlines()[0] == f"made the folder {tmp_path / 'user'}"
    written = tmp_path / "user" / "a" / "x.json"
    assert written.is_file()
    assert warehouse.read("exports")["path"].to_list() == [str(written)]
    again = CliRunner().invoke(app, ["export", "--to", "~/a/x.json", "--overwrite"])
    assert again.exit_code == 0
    assert "made the folder" not in again.output
    assert not (tmp_path / "~").exists()


@contextmanager
def _room_for(count: int) -> Iterator[None]:
    """Let this process write at most `count` bytes to a file: the system refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("format", FORMATS)
def test_without_room_the_old_files_stay_and_no_half_file_does(
    tmp_path: Path, format: ExportFormat
) -> None:
    target = tmp_path / "d.out"
    before = export_dataset(FRAME.head(1), format, target)
    kept = [file.read_bytes() for file in before.files]
    large = polars.concat([FRAME] * 400)
    with pytest.raises(RefineError, match="cannot write the file: File too large"), _room_for(1024):
        export_dataset(large, format, target, overwrite=True)
    assert [file.read_bytes() for file in before.files] == kept
    assert sorted(tmp_path.iterdir()) == sorted(before.files)


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ExportError, match="cannot write the file"):
        export_dataset(FRAME, "alpaca", tmp_path / "file" / "d.json")
    with pytest.raises(ExportError, match="cannot write the file: File name too long"):
        export_dataset(FRAME, "alpaca", tmp_path / ("d" * 300))
    with pytest.raises(ExportError, match="is a folder"):
        export_dataset(FRAME, "alpaca", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_nothing_to_export_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="no rows"):
        export_dataset(FRAME.clear(), "alpaca", tmp_path / "d.json")
    unknown: Any = "csv"
    with pytest.raises(ExportError, match="alpaca, messages, parquet"):
        export_dataset(FRAME, unknown, tmp_path / "d.csv")
    assert list(tmp_path.iterdir()) == []
