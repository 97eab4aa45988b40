"""Stage 0: the seed tasks, and the sensor of their file."""

import dagster as dg

from assets.facts import UNREADABLE
from assets.step import Result, Step, pipeline_asset
from refine_dagster import progress, stages
from refine_dagster.config.profile import Profile
from refine_dagster.errors import RefineError
from refine_dagster.language import language_of
from refine_dagster.seeds.language_fit import misfit
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.warehouse import OUTSIDE
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource


def seeds_version(profile: Profile) -> str:
    """The content of the seed file."""
    try:
        return read_seeds(profile.seeds.path).content_hash
    except RefineError:
        return UNREADABLE


@pipeline_asset(group="seeds", kinds={"duckdb"}, owner="data", revision=1, outside=seeds_version)
def seed_tasks(step: Step) -> Result:
    """The few hundred tasks that everything grows from, as given in the seed file.

    White space is normalised before a row is named, so a cosmetic edit of the file changes nothing
    downstream. `seeds.path` names the file; `packaged` is the project's own set.
    """
    file = read_seeds(step.profile.seeds.path)
    if same := step.unchanged(seeds=file.content_hash):
        return same
    if found := misfit(file.seeds, language_of(step.profile.language)):
        progress.note(f"warning: {found}")
    return step.commit(stages.seed_rows(file))


@dg.sensor(
    asset_selection=dg.AssetSelection.assets("seed_tasks"),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
)
def seed_file_changed(
    context: dg.SensorEvaluationContext, profile: ProfileResource, warehouse: WarehouseResource
) -> dg.SensorResult:
    """Materialises `seed_tasks` when the content of the seed file changes.

    The cursor is the hash of the content, so that other spacing, line ends or order start nothing.
    A file that cannot be read is waited for; the tick says what is wrong with it. With no cursor
    yet, the file is held against what `seed_tasks` was last made from.
    """
    try:
        current = read_seeds(profile.load().seeds.path).content_hash
        seen = context.cursor or _last_made_from(warehouse)
    except RefineError as error:
        return dg.SensorResult(skip_reason=str(error))
    if current == seen:
        return dg.SensorResult(skip_reason="the seeds are the same", cursor=current)
    # No run key: Dagster starts nothing twice for one key, and an edit may be taken back.
    return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=current)


def _last_made_from(warehouse: WarehouseResource) -> str | None:
    """The content hash that `seed_tasks` last recorded; None where it was never made."""
    opened = warehouse.open()
    if not opened.path.is_file():
        return None
    last = opened.last_record("seed_tasks")
    return last.inputs.get(f"{OUTSIDE}seeds") if last else None
