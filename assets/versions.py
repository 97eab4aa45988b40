"""Code versions: what, besides its inputs, decides an asset's content.

Run configuration is no part of Dagster's staleness, so the config that an asset reads are hashed
into its code version: change one, and the UI marks as unsynced exactly the assets that read it.
`REVISIONS` is raised by hand when an asset's own logic changes what it makes.

Files read from outside the graph count by content: the seeds of `seed_tasks`, the held-out tasks of
`evaluation_report`. They are read when the code location is loaded, so the UI sees an edit after
"Reload definitions"; the sensor `seed_file_changed` sees it without, and after its run the UI
shows `seed_tasks` by the version that was loaded until they are reloaded. A model folder named by
`base_model.id` is not hashed here, as its weights may be gigabytes: a change of it shows when
`base_model` next runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refine_dagster.config.evaluation import EvaluationConfig
from refine_dagster.config.policy_round import split_name
from refine_dagster.config.profile import Profile
from refine_dagster.config.registered import plug_ins_of
from refine_dagster.errors import RefineError
from refine_dagster.evaluation.super_ni import PACKAGED, load_tasks, task_entries, tasks_hash
from refine_dagster.hashing import content_id
from refine_dagster.seeds.readers import read_seeds

# Stands for the content of a file that is absent or has errors; the run says which.
UNREADABLE = "unreadable"
# Held-out tasks beyond this are not read while definitions load; loading must stay quick.
MOST_TASK_BYTES = 16 * 1024 * 1024

# asset -> (revision of its logic, sections of the profile that it reads); those of later policy
# rounds have the logic and the config of the first one's.
REVISIONS: dict[str, tuple[int, tuple[str, ...]]] = {
    "seed_tasks": (1, ()),
    "base_model": (2, ("base_model", "device")),
    "feedback_judge": (5, ("judge", "device")),
    "raw_instructions": (2, ("self_instruct", "device", "generator")),
    "instructor_policy": (1, ("teams_rl", "device", "generator")),
    "evolved_instructions": (1, ("teams_rl", "device", "generator")),
    "instruction_decisions": (2, ("self_instruct",)),
    "filtered_instructions": (2, ()),
    "reward_scored_instructions": (2, ("instances", "reward", "selection", "device", "generator")),
    "rl_policy_checkpoint": (4, ("instances", "reward", "reinforcement", "device", "generator")),
    "instruction_dataset": (2, ("instances", "reward", "selection", "device", "generator")),
    "fine_tuned_model": (1, ("supervised", "device")),
    "baseline_model": (1, ("supervised", "device")),
    "evaluation_report": (1, ("evaluation", "device", "generator")),
    "privacy_report": (1, ("privacy", "supervised", "device")),
}


def config_of(asset: str, profile: Profile) -> dict[str, Any]:
    """The config that the asset reads, and the run seed; JSON values.

    Of the generator's what decides completions; as long as it is as by default it is not named.
    What other packages provide is named with its version.
    """
    _, sections = REVISIONS[split_name(asset)[0]]
    config = {
        name: getattr(profile, name).model_dump(mode="json")
        for name in sections
        if name != "generator"
    }
    deciding = profile.generator.deciding() if "generator" in sections else {}
    plug_ins = plug_ins_of(*(getattr(profile, name) for name in sections))
    return {**config, **deciding, **plug_ins, "run_seed": profile.run_seed}


def config_hash(asset: str, profile: Profile) -> str:
    """Hash of the config that the asset reads, and of the run seed."""
    return content_id("config", config_of(asset, profile))


def code_version(asset: str, profile: Profile) -> str:
    """The asset's code version: revision, config, and the content of files read besides.

    Never fails on a bad file: its version is `unreadable`, and the run reports the errors.
    """
    revision, _ = REVISIONS[split_name(asset)[0]]
    version = f"{revision}.{config_hash(asset, profile)[:12]}"
    if asset == "seed_tasks":
        return f"{version}.{_seeds_version(profile.seeds.path)[:12]}"
    if asset == "evaluation_report":
        return f"{version}.{_tasks_version(profile.evaluation)[:12]}"
    return version


def _seeds_version(path: str) -> str:
    try:
        return read_seeds(path).content_hash
    except RefineError:
        return UNREADABLE


def _tasks_version(config: EvaluationConfig) -> str:
    try:
        if config.tasks != PACKAGED:
            entries = task_entries(config.tasks, config.split)
            sizes = (entry.stat().st_size for entry in entries if isinstance(entry, Path))
            if sum(sizes) > MOST_TASK_BYTES:
                return "unread"
        return tasks_hash(load_tasks(config.tasks, config.max_instances, config.split))
    except (RefineError, OSError):
        return UNREADABLE
