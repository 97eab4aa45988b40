"""After a prune of the real pipeline's home, a run still asks nothing and trains nothing."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

from refine_dagster.home import Home
from refine_dagster.lineage import prune
from refine_dagster.lineage.audit import verify
from refine_dagster.run import run_pipeline
from refine_dagster.warehouse.tables import graph_assets
from refine_dagster.warehouse.warehouse import Warehouse
from tests.pipeline.conftest import SMALL


def test_prune_and_run_again(copied_home: Home, tmp_path: Path) -> None:
    home = copied_home
    warehouse = Warehouse(home.warehouse)
    lines = (files("refine_dagster.seeds") / "packaged.jsonl").read_text("utf-8").splitlines()
    first = json.loads(lines[0])
    first["instruction"] += " Please."
    edited = tmp_path / "seeds.jsonl"
    edited.write_text("\n".join([json.dumps(first), *lines[1:]]) + "\n", encoding="utf-8")
    run_pipeline(home, SMALL, {"seeds.path": str(edited)}, select="seed_tasks")
    run_pipeline(home, SMALL, select="seed_tasks")
    with warehouse.connect() as connection:
        connection.execute(
            "INSERT INTO store.completions SELECT * REPLACE (sha256('x') AS key) "
            "FROM store.completions LIMIT 1"
        )

    live = {one.name: warehouse.read(one.name) for one in warehouse.slices()}
    checkpoints = set(home.checkpoints.glob("*/*"))
    plan = prune.plan(warehouse, home.checkpoints)
    assert (plan.completions, plan.unvouched, plan.rows) == (1, 1, {"seed_tasks": 2})
    assert prune.apply(warehouse, home.checkpoints).sequence is not None
    assert verify(warehouse, home.checkpoints, deep=True).findings == []
    for name, rows in live.items():
        assert warehouse.read(name).equals(rows), name
    assert set(home.checkpoints.glob("*/*")) == checkpoints

    last = warehouse.query("SELECT max(sequence) FROM lineage.materializations").item()
    run_pipeline(home, SMALL)
    again = warehouse.query(
        "SELECT sum(requests_asked)::BIGINT, sum(rows_added)::BIGINT, count(*) "
        "FROM lineage.materializations WHERE sequence > ? AND list_contains(?, asset)",
        [last, list(graph_assets())],
    ).row(0)
    assert again[:2] == (0, 0)
    assert again[2] == len(graph_assets())
    assert verify(warehouse, home.checkpoints, deep=True).findings == []
