"""Stage 0: the seed tasks."""

from typing import Any

import dagster as dg

from assets.step import materializing
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.rows import make_row
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


@dg.asset(group_name="seeds", kinds={"duckdb"}, owners=["team:data"])
def seed_tasks(
    context: dg.AssetExecutionContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.MaterializeResult[Any]:
    """The few hundred tasks that everything grows from, as given in the seed file.

    White space is normalised before a row is named, so a cosmetic edit of the file changes nothing
    downstream. `seeds.path` names the file; `packaged` is the project's own set.
    """
    with materializing(context, profile, warehouse) as step:
        file = read_seeds(step.profile.seeds.path)
        if same := step.unchanged(seeds=file.content_hash):
            return same
        rows = [make_row("seed_tasks", seed.row()) for seed in file.seeds]
        figures = {
            "seeds": len(rows),
            "classification": sum(seed.is_classification for seed in file.seeds),
            "without_input": sum(not row["input"] for row in rows),
            "warnings": len(file.warnings),
        }
        return step.commit({"seed_tasks": rows}, figures=figures)
