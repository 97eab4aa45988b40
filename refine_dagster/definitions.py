"""The Dagster code location: assets, checks, jobs, sensors and the resources injected into them.

Loading it opens no database and imports neither torch nor transformers. The profile is chosen by
`REFINE_PROFILE` and adjusted by `REFINE_<SECTION>__<FIELD>`; files live under `REFINE_HOME`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.automation import condition_sensors, keep_fresh
from assets.checks import asset_checks
from assets.graph import pipeline
from assets.marts import sql_model_assets
from assets.report import run_report
from assets.seeds import seed_file_changed
from refine_dagster.config.policy_round import rounds_until
from refine_dagster.config.profile import DEFAULT_PROFILE, load_profile
from refine_dagster.config.sources import PROFILE_VARIABLE
from refine_dagster.home import Home, find_home
from resources.models import GeneratorResource, GpuResource, JudgeResource
from resources.profile import ProfileResource
from resources.warehouse import CheckpointsResource, WarehouseResource

TRAINING = (
    *("fine_tuned_model", "baseline_model", "evaluation_report", "privacy_report"),
    "run_report",
)


def build_definitions(
    profile: str | None = None, overrides: Mapping[str, Any] | None = None, home: Home | None = None
) -> dg.Definitions:
    """The code location for a profile; the module-level `defs` is the environment's.

    Args:
        profile: a packaged profile or a YAML file; None reads `REFINE_PROFILE`.
        overrides: dotted config field -> value.
    """
    # Steps load the profile again, so they get what was asked for: a file's path, not its name.
    profile = profile or os.environ.get(PROFILE_VARIABLE) or DEFAULT_PROFILE
    config = load_profile(profile, overrides)
    home = home or find_home()
    made = pipeline(config.rounds)
    automated = [asset.versioned(config) for asset in made if asset.facts.automated]
    automated += sql_model_assets(rounds=config.rounds)
    fresh = keep_fresh(config.rounds)

    def kept_fresh(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.replace_attributes(automation_condition=fresh)

    # What the baselines learn from; in later rounds the dataset does not come after it.
    scored = [r.name("reward_scored_instructions") for r in rounds_until(config.rounds)]
    return dg.Definitions(
        assets=[
            *(asset.versioned(config) for asset in made if not asset.facts.automated),
            *(asset.map_asset_specs(kept_fresh) for asset in automated),
            run_report(config.rounds),
        ],
        asset_checks=asset_checks(config.rounds),
        sensors=[seed_file_changed, *condition_sensors(config.rounds)],
        jobs=[
            dg.define_asset_job(
                "everything",
                selection=dg.AssetSelection.all(),
                description="Seeds in, fine-tuned model out.",
            ),
            dg.define_asset_job(
                "dataset_only",
                selection=dg.AssetSelection.assets("instruction_dataset", *scored).upstream(),
                description="Up to the instruction dataset, without fine-tuning.",
            ),
            dg.define_asset_job(
                "train_only",
                selection=dg.AssetSelection.assets(*TRAINING),
                description="Fine-tunes, evaluates and reports on the dataset as it is.",
            ),
        ],
        resources={
            "profile": ProfileResource(
                name=profile, overrides=dict(overrides or {}), rounds=config.rounds
            ),
            "warehouse": WarehouseResource(
                database=str(home.warehouse), witness=config.audit.witness_file
            ),
            "gpu": GpuResource(),
            "generator": GeneratorResource(),
            "judge": JudgeResource(),
            "checkpoints": CheckpointsResource(root=str(home.checkpoints)),
        },
        # One process: models and DuckDB are opened once a step, and steps start in milliseconds.
        executor=dg.in_process_executor,
    )


defs = build_definitions()
