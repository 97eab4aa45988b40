"""Which assets a run would make, by the rules of `Step.unchanged`, without a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from assets.facts import Facts, checkpoints_are_whole, is_repeat
from assets.graph import pipeline
from refine_dagster.config.profile import Profile
from refine_dagster.lineage.changes import config_differences
from refine_dagster.warehouse.checkpoints import CheckpointStore
from refine_dagster.warehouse.ledger import LastRecord
from refine_dagster.warehouse.warehouse import OUTSIDE, Warehouse

FIELDS_NAMED = 3
NEVER = "never made"


@dataclass(frozen=True)
class AssetState:
    """What a run would do for an asset.

    Attributes:
        state: `up to date`; `to make`, for a reason of its own; or `may change`, where something
            that it is made from is to be made.
        because: the reason, in words; "" where it is up to date.
    """

    asset: str
    state: Literal["up to date", "to make", "may change"]
    because: str = ""


def asset_states(
    profile: Profile,
    warehouse: Warehouse | None,
    checkpoints: CheckpointStore,
    model: str | None = None,
) -> list[AssetState]:
    """The state of every asset but the SQL models, each after those that it reads.

    Args:
        warehouse: None where nothing was made yet.
        model: the fingerprint of a base model that is given; None where it is not known, or the run
            trains one. Files of a published judge are taken to be as they were.
    """
    states: dict[str, AssetState] = {}
    versions = warehouse.data_versions() if warehouse else {}
    for asset in pipeline(profile.rounds):
        facts, name = asset.facts, asset.facts.key
        [reads] = asset.definition.asset_deps.values()
        upstream = [key.to_user_string() for key in reads]
        last = warehouse.last_record(name) if warehouse else None
        if warehouse is None or last is None:
            states[name] = AssetState(name, "to make", NEVER)
            continue
        files = {key: value for key, value in last.inputs.items() if key.startswith(OUTSIDE)}
        if name == "base_model" and model is not None:
            files = {f"{OUTSIDE}model": model}
        read = {one: versions[one] for one in upstream if one in versions}
        inputs = {**read, **files}
        made_from = inputs, facts.code_version(profile), facts.config_hash(profile)
        waiting = [one for one in upstream if states[one].state != "up to date"]
        if is_repeat(last, *made_from):
            if not checkpoints_are_whole(warehouse, lambda: checkpoints, name):
                states[name] = AssetState(name, "to make", "its checkpoint is gone or damaged")
            elif waiting:
                states[name] = AssetState(name, "may change", f"after {waiting[0]}")
            else:
                states[name] = AssetState(name, "up to date")
        else:
            reasons = "; ".join(_reasons(facts, profile, warehouse, last, inputs))
            states[name] = AssetState(name, "to make", reasons or "what it reads changed")
    return list(states.values())


def _reasons(
    facts: Facts,
    profile: Profile,
    warehouse: Warehouse,
    last: LastRecord,
    inputs: Mapping[str, str],
) -> Iterator[str]:
    if last.config_hash != facts.config_hash(profile):
        known = warehouse.query(
            "SELECT config FROM lineage.configs WHERE config_hash = ?", [last.config_hash]
        )
        old = json.loads(known["config"][0]) if known.height else {}
        names = [field.name for field in config_differences(old, facts.config_of(profile))]
        more = ", ..." if len(names) > FIELDS_NAMED else ""
        yield f"config {', '.join(names[:FIELDS_NAMED]) or 'as it was written formerly'}{more}"
    old_code, new_code = (
        version.split(".") for version in (last.code_version, facts.code_version(profile))
    )
    if old_code[0] != new_code[0]:
        yield f"revision {old_code[0]} → {new_code[0]}"
    if old_code[2:] != new_code[2:]:
        yield "the file that it reads"
    for name in sorted(inputs.keys() | last.inputs.keys()):
        if inputs.get(name) != last.inputs.get(name):
            yield f"{name.removeprefix(OUTSIDE)} changed"
