"""Trace, its views and impact on a real run."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from refine_dagster.cli import app
from refine_dagster.home import Home
from refine_dagster.lineage.impact import impact
from refine_dagster.lineage.trace import trace
from refine_dagster.lineage.trace_text import as_markdown
from refine_dagster.warehouse.warehouse import Warehouse


@pytest.fixture(scope="module")
def edges(built_home: Home) -> dict[str, set[str]]:
    """Parents of every row, from the rows' own lists."""
    warehouse, found = Warehouse(built_home.warehouse), dict[str, set[str]]()
    for table in set(warehouse.query("SELECT DISTINCT table_name FROM lineage.rows")["table_name"]):
        rows = warehouse.query(f"SELECT row_id, parents FROM history.{table}")
        found |= {row_id: {one["row_id"] for one in parents} for row_id, parents in rows.rows()}
    return found


def closure(edges: dict[str, set[str]], start: str) -> set[str]:
    seen, waiting = set[str](), [start]
    while waiting:
        fresh = edges.get(waiting.pop(), set()) - seen
        seen |= fresh
        waiting += fresh
    return seen


def test_views_and_trace_equal_a_plain_closure(
    built: Warehouse, edges: dict[str, set[str]]
) -> None:
    asked = built.query(
        "(FROM main.instruction_dataset SELECT row_id ORDER BY row_id LIMIT 2) UNION ALL "
        "(FROM main.fine_tuned_model SELECT row_id) UNION ALL "
        "(FROM main.evaluation_comparisons SELECT row_id ORDER BY row_id LIMIT 1)"
    )["row_id"]
    assert len(asked) == 4
    for row_id in asked:
        expected = closure(edges, row_id)
        view = built.query("SELECT ancestor_id FROM lineage.ancestors WHERE row_id = ?", [row_id])
        assert sorted(view["ancestor_id"]) == sorted(expected)
        assert set(trace(built, row_id).rows["row_id"]) == expected | {row_id}


def test_descendants_mirror_ancestors(built: Warehouse) -> None:
    differing = built.query(
        """
        SELECT count(*) FROM (
            (SELECT row_id, ancestor_id, depth FROM lineage.ancestors)
            EXCEPT (SELECT descendant_id, row_id, depth FROM lineage.descendants)
        )
        """
    ).item()
    assert differing == 0


@pytest.mark.parametrize("format", ["tree", "json", "mermaid", "dot"])
def test_every_format_reaches_a_seed(
    built: Warehouse, built_home: Home, monkeypatch: pytest.MonkeyPatch, format: str
) -> None:
    monkeypatch.setenv("REFINE_HOME", str(built_home.root))
    row = built.read("instruction_dataset").row(0, named=True)
    told = CliRunner().invoke(app, ["trace", row["row_id"][:12], "--format", format])
    assert told.exit_code == 0, told.output
    shown = built.query(
        "SELECT seed.row_id FROM main.seed_tasks AS seed JOIN lineage.edges AS edge "
        "ON edge.parent_id = seed.row_id WHERE edge.row_id = ?",
        [row["row_id"]],
    )["row_id"]
    assert len(shown) > 0
    assert all(seed[:12] in told.output for seed in shown)
    if format == "json":
        parsed = json.loads(told.output)
        assert parsed["completion"]["key"] == row["completion_key"]
        assert row["instruction"] in parsed["completion"]["prompt"]


def test_trace_down_reaches_models(built: Warehouse) -> None:
    seed = built.read("seed_tasks")["row_id"][0]
    tables = set(trace(built, seed, down=True).rows["table"])
    assert {"base_model", "instruction_dataset", "fine_tuned_model"} <= tables


def test_impact_agrees_with_the_view(
    built: Warehouse, built_home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    seed = built.query(
        "SELECT seed_id, seed_tasks.row_id FROM main.seed_tasks JOIN lineage.edges AS edge "
        "ON edge.parent_id = seed_tasks.row_id AND edge.table_name = 'instruction_dataset' LIMIT 1"
    )
    seed_id, row_id = seed.row(0)
    found = impact(built, seed_id)
    view = built.query("SELECT descendant_id FROM lineage.descendants WHERE row_id = ?", [row_id])
    assert sorted(found.rows["row_id"]) == sorted(view["descendant_id"])
    data = next(one for one in found.tables if one.table == "instruction_dataset")
    assert data.shown >= 1
    assert data.trained >= 1
    assert data.rows == data.of == built.read("instruction_dataset").height
    models = {"base_model", "feedback_judge", "rl_policy_checkpoint", "fine_tuned_model"}
    held = {one.asset for one in found.live_checkpoints}
    assert held == models | {"baseline_model", "instructor_policy"}
    assert all(
        one.path and (built_home.checkpoints / one.path).is_dir() for one in found.checkpoints
    )
    monkeypatch.setenv("REFINE_HOME", str(built_home.root))
    told = CliRunner().invoke(app, ["impact", seed_id])
    assert told.exit_code == 0, told.output
    assert "Live checkpoints that were trained on it" in told.output
    parsed = json.loads(CliRunner().invoke(app, ["impact", seed_id, "--format", "json"]).output)
    assert len(parsed["rows"]) == found.rows.height
    before = CliRunner().invoke(app, ["impact", seed_id, "--as-of", "1", "--format", "json"])
    assert json.loads(before.output)["rows"] == []


def test_ui_shows_the_trace_of_a_row(built: Warehouse, built_home: Home) -> None:
    import dagster as dg

    with dg.DagsterInstance.from_config(str(built_home.dagster)) as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey("instruction_dataset"))
    assert event is not None
    assert event.asset_materialization is not None
    shown = event.asset_materialization.metadata["trace"].value
    row_id = built.query("SELECT min(row_id) FROM main.instruction_dataset").item()
    assert shown == as_markdown(trace(built, row_id))
    assert "- *demonstration*: **seed_tasks** `" in str(shown)
    assert "- *policy*: **rl_policy_checkpoint** `" in str(shown)
