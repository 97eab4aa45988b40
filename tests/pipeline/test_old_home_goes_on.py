"""A run goes on from a home that older code wrote: nothing asked or trained, the same rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from refine_dagster.home import Home
from refine_dagster.lineage.audit import verify
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.children import run_command
from tests.pipeline.home_content import assert_sound, content
from tests.warehouse.old_home import EXPECTED, unpack


def _make_everything() -> None:
    """No asset counts as unchanged, and a training is an error."""
    from assets.step import Step
    from refine_dagster.warehouse.checkpoints import CheckpointStore

    unchanged = Step.unchanged

    def revised(self: Step, **outside: str) -> Any:
        self._code_version = f"revised.{self._code_version}"
        return unchanged(self, **outside)

    Step.unchanged = revised  # type: ignore[method-assign]
    train_or_reuse = CheckpointStore.train_or_reuse

    def reuse(self: CheckpointStore, asset: str, manifest: Any, train: Any) -> Any:
        def refuse(folder: Path) -> dict[str, Any]:
            raise AssertionError(f"{asset} was trained")

        return train_or_reuse(self, asset, manifest, refuse)

    CheckpointStore.train_or_reuse = reuse  # type: ignore[method-assign]


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [None, _make_everything])
def test_a_run_goes_on_from_an_old_home(tmp_path: Path, prepare: Any) -> None:
    """With the same settings; also where every asset is made again from what is stored."""
    home = unpack(tmp_path)
    warehouse = Warehouse(home.warehouse)
    before = _comparable(home)
    last = warehouse.query("SELECT max(sequence) FROM lineage.materializations").item()
    child = run_command(
        home,
        tmp_path / "run.log",
        "--profile",
        str(tmp_path / "profile.yaml"),
        "--seeds",
        str(tmp_path / "seeds.jsonl"),
        prepare=prepare,
    )
    assert child.end() == 0, child.log.read_text(encoding="utf-8")
    assert child.sent_keys() == []
    assert _comparable(home) == before
    made = warehouse.query(
        "SELECT asset, rows_added, rows_removed, requests_sent FROM lineage.materializations "
        "WHERE sequence > ? AND list_contains(?, asset) ORDER BY asset",
        [last, EXPECTED["graph_assets"]],
    ).rows()
    assert made == [(asset, 0, 0, 0) for asset in sorted(EXPECTED["graph_assets"])]
    for name, told in EXPECTED["marts"].items():
        rows = told["rows"] * ROWS_FOR_ONE.get(name, 1)
        assert warehouse.query(f"SELECT count(*) FROM marts.{name}").item() == rows
    report = verify(warehouse, home.checkpoints, deep=True)
    assert (report.findings, report.warnings) == ([], [])
    assert_sound(home)


def _comparable(home: Home) -> dict[str, Any]:
    """What a run with nothing to do leaves as it is; models are made from today's files."""
    found = content(home)
    return {**found, "versions": [one for one in found["versions"] if one[0] in ASSETS]}


ASSETS = set(EXPECTED["graph_assets"])
# A mart with one row for each pair of reward and parts, where the old one had a column.
ROWS_FOR_ONE = {"reward_part_correlations": 10}
