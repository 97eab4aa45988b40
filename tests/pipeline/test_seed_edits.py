"""What an edit of the seed file costs: nothing, where it is cosmetic."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from refine_dagster.home import Home
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL


@pytest.mark.slow
def test_version_is_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Promise 8: white space and the order of lines stop at `seed_tasks`; a word does not."""
    home = Home(tmp_path / "home")
    monkeypatch.setenv("DAGSTER_HOME", str(home.dagster))
    text = (files("refine_dagster.seeds") / "packaged.jsonl").read_text(encoding="utf-8")
    seeds = [json.loads(line) for line in text.splitlines()]
    path = tmp_path / "seeds.jsonl"

    def version() -> str | None:
        path.write_text("".join(json.dumps(seed) + "\n" for seed in seeds), encoding="utf-8")
        run_pipeline(home, SMALL, {"seeds.path": str(path)}, "seed_tasks")
        return Warehouse(home.warehouse).data_version("seed_tasks")

    first = version()
    seeds[3]["instruction"] = "  " + seeds[3]["instruction"].replace(" ", "   ") + " \n"
    seeds.reverse()
    assert version() == first
    counts = Warehouse(home.warehouse).query(
        "SELECT rows_added, rows_removed FROM lineage.materializations ORDER BY sequence"
    )
    assert counts.rows() == [(len(seeds), 0), (0, 0)]
    seeds[3]["instruction"] += " Be brief."
    assert version() != first
