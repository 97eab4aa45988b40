"""Automation: the dataset follows the seed file, and models are trained only by hand.

Three sensors, all off until they are switched on in the UI. `seed_file_changed` watches the seed
file and materialises `seed_tasks`. `dataset_kept_fresh` then evaluates `keep_fresh` on every asset
of `automated`, `marts_kept_fresh` on the SQL models, and both go on only as far as data versions
change. There are two because of blocking checks: in a run that automation starts for assets whose
checks are part of the asset, as in SQL models, Dagster leaves out checks that are defined
separately, as those of the dataset are.

Training costs the most and is left to people; the trained models and, with them,
`evaluation_report` and `privacy_report` have no condition. After an edit, what is automated is made
from the models as they stand; the UI marks those as unsynced, and until they are trained again the
dataset is not what a rebuild would give, and a removed seed is still among the models' ancestors.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import dagster as dg

from assets.graph import pipeline

# How far upstream an asset looks for work that must finish first. Two levels are enough: most
# automated assets read the seeds and models besides the asset before them, and so are due from
# the first change until their turn.
LOOKS_UP = 2


@cache
def automated(rounds: int = 1) -> tuple[str, ...]:
    """The assets that are kept fresh, without the SQL models."""
    return tuple(asset.facts.key for asset in pipeline(rounds) if asset.facts.automated)


def keep_fresh(rounds: int = 1) -> dg.AutomationCondition[Any]:
    """Materialise when an input's content, or the asset's code or config, changed.

    `AutomationCondition.eager()` would go on at any update of an input; this stops where content
    does. An asset waits until everything upstream that is due or in progress has finished: the
    dataset is requested once, and no mart joins new candidates to an old dataset.
    """
    condition = dg.AutomationCondition
    changed: dg.AutomationCondition[Any] = (
        condition.newly_missing()
        | condition.any_deps_match(condition.data_version_changed()).with_label("any_deps_changed")
        | condition.code_version_changed()
    )
    moving = condition.in_progress() | condition.will_be_requested()
    due = changed.since(condition.newly_updated()).with_label("due")
    # What is left to people may be due for long; nothing waits for that.
    allowed = dg.AssetSelection.assets(*automated(rounds))
    unsettled = condition.any_deps_match(moving) | condition.any_deps_match(due).allow(allowed)
    for _ in range(LOOKS_UP - 1):
        unsettled = unsettled | condition.any_deps_match(unsettled)
    return (
        changed.since_last_handled()
        & ~condition.any_deps_missing()
        & ~unsettled.with_label("anything_unsettled_upstream")
        & condition.all_deps_blocking_checks_passed()
    ).with_label("keep_fresh")


def condition_sensors(rounds: int = 1) -> list[dg.AutomationConditionSensorDefinition]:
    """The sensors that evaluate `keep_fresh`."""
    return [
        dg.AutomationConditionSensorDefinition(
            "dataset_kept_fresh",
            target=dg.AssetSelection.assets(*automated(rounds)),
            description="Materialises the dataset again when its inputs change; trains nothing.",
        ),
        dg.AutomationConditionSensorDefinition(
            "marts_kept_fresh",
            target=dg.AssetSelection.groups("marts"),
            description="Materialises SQL models again when their inputs change.",
        ),
    ]
