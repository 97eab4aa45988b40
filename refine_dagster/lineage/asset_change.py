"""What differs between two materializations of one asset: inputs, files, knobs, code."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from refine_dagster.lineage.timeline import Materialization, Timeline
from refine_dagster.lineage.warehouse import OUTSIDE


@dataclass(frozen=True)
class Difference:
    """One named thing with its old and new value; None where it was not there.

    Values are JSON values of knobs, or versions as hex digits.
    """

    name: str
    old: Any
    new: Any


@dataclass(frozen=True)
class AssetChange:
    """Two materializations of one asset compared; either may be missing.

    Attributes:
        before: the sequence number compared with; None if the asset was not there.
        after: the sequence number compared; None likewise.
        inputs: upstream assets whose data version differs.
        files: what else was read, where its content hash differs.
        knobs: dotted names of settings whose value differs; `salt` is one.
        code: the revision of the asset's logic, where it differs.
    """

    asset: str
    before: int | None
    after: int | None
    inputs: tuple[Difference, ...] = ()
    files: tuple[Difference, ...] = ()
    knobs: tuple[Difference, ...] = ()
    code: Difference | None = None

    @property
    def is_first(self) -> bool:
        """Whether the asset exists on one side only: there is nothing to compare."""
        return self.before is None or self.after is None

    @property
    def is_empty(self) -> bool:
        """Whether nothing differs."""
        return not (self.is_first or self.inputs or self.files or self.knobs or self.code)


def compare(timeline: Timeline, asset: str, before: int, after: int) -> AssetChange:
    """The asset's materializations in force at two sequence numbers, compared."""
    old, new = timeline.at(asset, before), timeline.at(asset, after)
    if old is None or new is None:
        return AssetChange(asset, old.sequence if old else None, new.sequence if new else None)
    read = _differences(timeline.inputs[old.sequence], timeline.inputs[new.sequence])
    knobs = _differences(
        dict(_flat(timeline.configs[old.config_hash])),
        dict(_flat(timeline.configs[new.config_hash])),
    )
    code = Difference("revision", _revision(old), _revision(new))
    return AssetChange(
        asset,
        old.sequence,
        new.sequence,
        inputs=tuple(one for one in read if not one.name.startswith(OUTSIDE)),
        files=tuple(
            Difference(one.name.removeprefix(OUTSIDE), one.old, one.new)
            for one in read
            if one.name.startswith(OUTSIDE)
        ),
        knobs=tuple(knobs),
        code=code if code.old != code.new else None,
    )


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _revision(one: Materialization) -> str:
    """The part of a code version that speaks of logic; the knobs behind it have their own hash."""
    return one.code_version.partition(".")[0]
