"""Rows of the dataset by the seeds that they go back to, and a split that no family straddles.

Two ways to say what belongs together:

- `descent`: rows with a seed in common that was shown, or evolved, on the way to either. No seed
  then has descendants on both sides of a split. Where prompts show several seeds, as by default,
  almost all rows are one family, and there is no such split.
- `nearest`: rows whose instruction goes back to one seed by its nearest text: an evolved one to the
  seed that it was evolved from, a proposed one to the text of the pool with the highest ROUGE-L,
  and from there on. Likeness is bounded by it, descent is not.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from refine_dagster.errors import RefineError
from refine_dagster.hashing import content_id
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.sql import literals
from refine_dagster.warehouse.warehouse import Warehouse

SplitBy = Literal["descent", "nearest"]
# Roles of parents whose text a row was written from.
TEXT_ROLES = ("instruction", "candidate", "demonstration", "evolved", "former_pool")
# Of these a row has one parent at most.
_FROM_ONE = ("candidate", "former_pool", "evolved")
SEEDS = "seed_tasks"


class Ancestry:
    """The text that rows of the dataset were written from, read once."""

    def __init__(self, warehouse: Warehouse) -> None:
        with warehouse.held():
            edges = warehouse.query(
                "SELECT replace(row_id::VARCHAR, '-', '') AS child, parent_table, "
                "replace(parent_id::VARCHAR, '-', '') AS parent, role FROM lineage.parents "
                f"WHERE role IN ({literals(TEXT_ROLES)})"
            )
            decisions = warehouse.query(
                "SELECT candidate_id, nearest_id FROM instruction_decisions WHERE kept"
            )
            self._seed_ids = dict(
                warehouse.query(f"SELECT row_id, seed_id FROM history.{SEEDS}").rows()
            )
        self._parents: dict[str, list[tuple[str, str, str]]] = defaultdict(list)
        for child, table, parent, role in edges.rows():
            self._parents[child].append((table, parent, role))
        self._nearest: dict[str, str | None] = dict(decisions.rows())
        self._seeds: dict[str, frozenset[str]] = {}

    def seeds(self, row: Row) -> list[str]:
        """The ids, as in the seed file, of all seeds whose text a row descends from."""
        found: set[str] = set()
        for parent in row["parents"]:
            if parent["role"] in TEXT_ROLES:
                found |= self._seeds_above(parent["asset"], parent["row_id"])
        return sorted(self._seed_ids[seed] for seed in found)

    def nearest_seed(self, row: Row) -> str:
        """The seed that a row's instruction goes back to by its nearest text, or the last text."""
        (at,) = [p["row_id"] for p in row["parents"] if p["role"] == "instruction"]
        seen = set()
        while at not in seen and at not in self._seed_ids:
            seen.add(at)
            above = [p[1] for p in self._parents[at] if p[2] in _FROM_ONE]
            at = above[0] if above else self._nearest.get(at) or at
        return at

    def _seeds_above(self, table: str, row_id: str) -> frozenset[str]:
        if table == SEEDS:
            return frozenset([row_id])
        if row_id not in self._seeds:
            above: set[str] = set()
            # A text descends from texts that were there before it, so this ends.
            for parent_table, parent, _ in self._parents[row_id]:
                above |= self._seeds_above(parent_table, parent)
            self._seeds[row_id] = frozenset(above)
        return self._seeds[row_id]


@dataclass(frozen=True)
class Split:
    """Which rows are for validation, by row id, and what the families were."""

    validation: frozenset[str]
    by: SplitBy
    families: int
    largest: int


def split_rows(rows: Sequence[Row], ancestry: Ancestry, share: float, by: SplitBy) -> Split:
    """Choose about `share` of the rows for validation, whole families at a time.

    Families are drawn by the hash of their rows, so equal data is split alike anywhere.

    Raises:
        RefineError: no family is small enough to stand apart.
    """
    if by == "descent":
        family_of = _joined({row["row_id"]: ancestry.seeds(row) for row in rows})
    else:
        family_of = {row["row_id"]: ancestry.nearest_seed(row) for row in rows}
    members: dict[str, list[str]] = defaultdict(list)
    for row_id, family in sorted(family_of.items()):
        members[family].append(row_id)
    wanted = max(1, round(share * len(rows)))
    chosen: set[str] = set()
    for own in sorted(members.values(), key=lambda own: content_id("split", own)):
        if len(chosen) + len(own) <= wanted:
            chosen.update(own)
    largest = max(len(own) for own in members.values())
    if not chosen:
        raise RefineError(
            f"no split leaves every seed on one side: {largest} of {len(rows)} rows are linked by "
            "seeds that prompts showed"
            if by == "descent"
            else f"no family of rows is as small as {wanted} of {len(rows)} rows",
            where="--validation",
            fix="add --split-by nearest, or leave --validation out"
            if by == "descent"
            else "raise --validation, or leave it out",
        )
    return Split(frozenset(chosen), by, len(members), largest)


def _joined(seeds_of: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Row -> the name of its family: rows are joined that have a seed in common."""
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while (above := root.setdefault(name, name)) != name:
            root[name] = name = root[above]
        return name

    for row_id, seeds in seeds_of.items():
        for seed in seeds:
            first, second = sorted((find(f"row {row_id}"), find(f"seed {seed}")))
            root[second] = first
    return {row_id: find(f"row {row_id}") for row_id in seeds_of}
