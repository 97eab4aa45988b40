"""The command line on a home in which the whole graph was materialised."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from refine_dagster.cli import app
from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL


@pytest.fixture(scope="module")
def home(built_home: Home, tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A copy: commands record what they do."""
    copy = Home(tmp_path_factory.mktemp("cli") / "home")
    shutil.copytree(built_home.root, copy.root)
    return copy


@pytest.fixture
def built(home: Home) -> Warehouse:
    """The warehouse of the copy."""
    return Warehouse(home.warehouse)


@pytest.fixture(autouse=True)
def _in_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REFINE_HOME", str(home.root))
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_run_again_changes_nothing_and_prints_the_summary(built: Warehouse) -> None:
    before = built.data_version("seed_tasks")
    told = call("run", "--select", "seed_tasks", "--profile", SMALL).stdout
    assert "seed_tasks: " in told
    assert "(unchanged)" in told
    assert "Last materialization of each asset" in told
    assert built.data_version("seed_tasks") == before


def test_status_tells_every_section(built: Warehouse, home: Home) -> None:
    told = call("status").stdout
    for section in (
        "Funnel per stage",
        "Judge, accuracy",
        "Reward on held-out instructions, before and after RL",
        "Evaluation, mean ROUGE-L",
        "Arms compared",
        "Last materialization of each asset",
    ):
        assert section in told
    for arm in ("base", "seeds_only", "self_instruct", "refine_af"):
        assert arm in told
    for asset in built.query("SELECT DISTINCT asset FROM lineage.materializations")["asset"]:
        assert f"│ {asset} " in told
    kept = built.read("filtered_instructions").height
    (line,) = [
        one for one in told.splitlines() if one.startswith("│ instructions ") if "kept" in one
    ]
    assert line.split("│")[4].strip() == str(kept)
    assert f"warehouse    {home.warehouse}" in told


@pytest.mark.parametrize("table", [*TABLES, "yield_funnel", "stg_instruction_dataset"])
def test_show_prints_rows_of_every_table(built: Warehouse, table: str) -> None:
    total = built.query(f"SELECT count(*) FROM {built.relations()[table]}").item()
    shown = call("show", table, "--limit", "2").stdout
    # The title of an empty table is broken at the table's width.
    assert f"{table}: {min(2, total)} of {total} rows" in " ".join(shown.split())
    assert "parents" not in shown


def test_show_prints_what_is_there(built: Warehouse) -> None:
    told = call("show", "instruction_dataset", "--limit", "1000").stdout
    for row_id in built.read("instruction_dataset")["row_id"]:
        assert row_id in told


def test_show_of_an_unknown_table_names_those_there_are() -> None:
    with pytest.raises(RefineError, match="there is no table 'nonsense'") as told:
        call("show", "nonsense")
    assert "instruction_dataset" in str(told.value)


@pytest.mark.parametrize(
    ("layout", "name", "reader"),
    [
        ("alpaca", "dataset.json", "json"),
        ("messages", "dataset.jsonl", "json"),
        ("parquet", "dataset.parquet", "parquet"),
    ],
)
def test_datasets_reads_an_export(
    built: Warehouse, tmp_path: Path, layout: str, name: str, reader: str
) -> None:
    from datasets import load_dataset

    path = tmp_path / name
    told = call("export", "--format", layout, "--to", str(path)).stdout
    assert f"wrote {path}" in told
    rows = built.read("instruction_dataset").sort("row_id").to_dicts()
    read = load_dataset(
        reader, data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(read) == len(rows)
    for found, row in zip(read, rows, strict=True):
        if layout == "messages":
            asked, answered = found["messages"]
            assert (asked["role"], answered["role"]) == ("user", "assistant")
            assert asked["content"].startswith(row["instruction"])
            assert answered["content"] == row["output"]
        else:
            for field in ("instruction", "input", "output"):
                assert found[field] == row[field]
    card = json.loads((tmp_path / f"{name}.provenance.json").read_text(encoding="utf-8"))
    assert card["rows"] == len(rows)
    assert card["data_version"] == built.data_version("instruction_dataset")


def test_export_keeps_a_file_that_is_there(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(RefineError, match="the file exists"):
        call("export", "--to", str(path))
    assert path.read_text(encoding="utf-8") == "mine"
    with pytest.raises(RefineError, match="is not as an export wrote it"):
        call("export", "--to", str(path), "--overwrite")
    assert path.read_text(encoding="utf-8") == "mine"
