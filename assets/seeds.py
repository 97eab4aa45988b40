"""Stage 0: the seed tasks."""

from assets.declaration import pipeline_asset
from assets.facts import seeds_version
from assets.step import Result, Step
from refine_dagster import stages
from refine_dagster.seeds.readers import read_seeds


@pipeline_asset(group="seeds", kinds={"duckdb"}, owner="data", revision=1, outside=seeds_version)
def seed_tasks(step: Step) -> Result:
    """The few hundred tasks that everything grows from, as given in the seed file.

    White space is normalised before a row is named, so a cosmetic edit of the file changes nothing
    downstream. `seeds.path` names the file; `packaged` is the project's own set.
    """
    file = read_seeds(step.profile.seeds.path)
    if same := step.unchanged(seeds=file.content_hash):
        return same
    return step.commit(stages.seed_rows(file))
