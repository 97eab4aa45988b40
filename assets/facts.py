"""What an asset declares, and the code version that follows from it.

Run configuration is no part of Dagster's staleness, so the config that an asset reads is hashed
into its code version: change a field, and the UI marks as unsynced exactly the assets that read it.

Files read from outside the graph count by content. They are read when the code location is loaded,
so the UI sees an edit after "Reload definitions"; the sensor `seed_file_changed` sees it without,
and after its run the UI shows `seed_tasks` by the version that was loaded until they are reloaded.
A model folder named by `base_model.id` is not hashed, as its weights may be gigabytes: a change
shows when `base_model` next runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from refine_dagster.config.profile import Profile
from refine_dagster.config.section import plug_ins_of
from refine_dagster.hashing import content_id
from refine_dagster.language import ENGLISH
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.ledger import LastRecord
from refine_dagster.warehouse.tables import slice_of
from refine_dagster.warehouse.warehouse import Warehouse

# Stands for the content of a file that is absent or has errors; the run says which.
UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Facts:
    """What an asset declares."""

    key: str
    revision: int  # of its logic, raised by hand
    config: tuple[str, ...] = ()  # sections of the profile that it reads
    automated: bool = False  # whether automation may materialise it; training is left to people
    outside: Callable[[Profile], str] | None = None  # hashes what else it reads

    @property
    def resources(self) -> set[str]:
        """The Dagster resources that its body uses."""
        used = {"profile", "warehouse"}
        if "device" in self.config:
            used |= {"gpu", "generator", "checkpoints"}
        return used | ({"judge"} if "reward" in self.config else set())

    def config_of(self, profile: Profile) -> dict[str, Any]:
        """The config that it reads, and the run seed; JSON values.

        Fields of `generator`, and the language, are named where they are not as by default;
        plug-ins by version.
        """
        sections = [getattr(profile, name) for name in self.config]
        config = {
            name: section.model_dump(mode="json")
            for name, section in zip(self.config, sections, strict=True)
        }
        if slice_of(self.key).table.calls_model:
            sections.append(profile.generator)
            config |= profile.generator.deciding()
        if profile.language != ENGLISH.code:
            config["language"] = profile.language
        return {**config, **plug_ins_of(*sections), "run_seed": profile.run_seed}

    def config_hash(self, profile: Profile) -> str:
        return content_id("config", self.config_of(profile))

    def code_version(self, profile: Profile) -> str:
        """Revision, config, and the content of what is read besides."""
        version = f"{self.revision}.{self.config_hash(profile)[:12]}"
        return f"{version}.{self.outside(profile)[:12]}" if self.outside else version


def is_repeat(
    last: LastRecord | None, inputs: Mapping[str, str], code_version: str, config_hash: str
) -> bool:
    """Whether an asset's last materialization was made from the same inputs, code and config."""
    made_from = (inputs, code_version, config_hash)
    return last is not None and (last.inputs, last.code_version, last.config_hash) == made_from


def checkpoints_are_whole(
    warehouse: Warehouse, checkpoints: Callable[[], CheckpointStore], asset: str
) -> bool:
    """Whether every checkpoint that the asset's live rows name is there, byte for byte.

    `checkpoints` is called where the asset has some: others are not given the resource.
    """
    if "checkpoint_hash" not in slice_of(asset).table.columns:
        return True
    hashes = warehouse.read(asset)["checkpoint_hash"].drop_nulls()
    return all(checkpoints().is_whole(asset, content_hash) for content_hash in hashes)
