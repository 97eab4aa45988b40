"""The evaluation: four arms on held-out tasks, by the SUPER-NI protocol."""

from dataclasses import asdict
from pathlib import Path

import dagster as dg
import polars as pl

from assets.facts import UNREADABLE
from assets.preview import markdown_table
from assets.sources import arms_of, base_of
from assets.step import Result, Step, pipeline_asset
from refine_dagster import stages
from refine_dagster.config.profile import Profile
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.report import COMPARISONS, REPORT, means_of
from refine_dagster.evaluation.super_ni import PACKAGED, load_tasks, task_entries, tasks_hash
from refine_dagster.warehouse.rows import frame

# Held-out tasks beyond this are not read while definitions load; loading must stay quick.
MOST_TASK_BYTES = 16 * 1024 * 1024


def tasks_version(profile: Profile) -> str:
    """The content of the held-out tasks."""
    config = profile.evaluation
    try:
        if config.tasks != PACKAGED:
            entries = task_entries(config.tasks, config.split)
            sizes = (entry.stat().st_size for entry in entries if isinstance(entry, Path))
            if sum(sizes) > MOST_TASK_BYTES:
                return "unread"
        return tasks_hash(load_tasks(config.tasks, config.max_instances, config.split))
    except (RefineError, OSError):
        return UNREADABLE


@pipeline_asset(group="evaluation", kinds={"huggingface", "duckdb"}, owner="models", revision=1,
                config=("evaluation", "device"), outside=tasks_version,
                deps=["base_model", "baseline_model", "fine_tuned_model"])  # fmt: skip
def evaluation_report(step: Step) -> Result:
    """ROUGE-L of base, seeds only, Self-Instruct and REFINE-AF on held-out SUPER-NI tasks.

    Per task and arm; arm against arm with ties, share of tasks won and bootstrap intervals; and
    every answer. It reports whatever it finds.
    """
    config = step.profile.evaluation
    tasks = load_tasks(config.tasks, config.max_instances, config.split)
    if same := step.unchanged(tasks=tasks_hash(tasks)):
        return same
    base = base_of(step)
    arms = {"base": base, **arms_of(step, base)}
    with step.runtime() as runtime:
        made = stages.evaluate(arms, tasks, config, runtime)
    comparisons = frame(COMPARISONS, made.tables[COMPARISONS]).drop("row_id", "parents")
    categories = pl.DataFrame(
        {"arm": arm, **asdict(category)}
        for arm, means in means_of(made.tables[REPORT]).items()
        for category in means.categories
    )
    pictures = {
        "comparisons": dg.MetadataValue.md(markdown_table(comparisons)),
        "categories": dg.MetadataValue.md(markdown_table(categories)),
    }
    return step.commit(made, pictures)
