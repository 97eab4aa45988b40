"""Code versions: what, besides its inputs, decides an asset's content.

Run configuration is no part of Dagster's staleness, so the knobs that an asset reads are hashed
into its code version: change one, and the UI marks as outdated exactly the assets that read it.
`REVISIONS` is raised by hand when an asset's own logic changes what it makes.
"""

from __future__ import annotations

from typing import Any

from refine_dagster.lineage.content import content_id
from refine_dagster.profile import Profile

# asset -> (revision of its logic, sections of the profile that it reads)
REVISIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "seed_tasks": (1, ()),
    "base_model": (1, ("base_model", "device")),
    "feedback_judge": (2, ("judge", "device")),
    "raw_instructions": (1, ("self_instruct", "device")),
    "instruction_decisions": (1, ("self_instruct",)),
    "filtered_instructions": (1, ()),
    "reward_scored_instructions": (1, ("instances", "reward", "selection", "device")),
    "rl_policy_checkpoint": (1, ("instances", "reward", "reinforcement", "device")),
    "instruction_dataset": (1, ("instances", "reward", "selection", "device")),
    "fine_tuned_model": (1, ("supervised", "device")),
    "baseline_model": (1, ("supervised", "device")),
    "evaluation_report": (1, ("evaluation", "device")),
}


def config_of(asset: str, profile: Profile) -> dict[str, Any]:
    """The knobs that the asset reads, and the salt; JSON values."""
    _, sections = REVISIONS[asset]
    knobs = {name: getattr(profile, name).model_dump(mode="json") for name in sections}
    return {**knobs, "salt": profile.salt}


def config_hash(asset: str, profile: Profile) -> str:
    """Hash of the knobs that the asset reads, and of the salt."""
    return content_id("config", config_of(asset, profile))


def code_version(asset: str, profile: Profile) -> str:
    """The asset's code version: revision and knobs."""
    revision, _ = REVISIONS[asset]
    return f"{revision}.{config_hash(asset, profile)[:12]}"
