"""Splits leave every family on one side."""

from __future__ import annotations

from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refine_dagster.errors import RefineError
from refine_dagster.home import Home
from refine_dagster.publishing.seed_families import Ancestry, SplitBy, split_rows
from refine_dagster.warehouse.warehouse import Warehouse


class MadeUpAncestry:
    """Seeds of rows by the row's id; the nearest is the first."""

    def __init__(self, seeds: dict[str, list[str]]) -> None:
        self._seeds = seeds

    def seeds(self, row: dict[str, Any]) -> list[str]:
        return self._seeds[row["row_id"]]

    def nearest_seed(self, row: dict[str, Any]) -> str:
        return self.seeds(row)[0]


def split(seeds: dict[str, list[str]], share: float, by: SplitBy = "descent") -> frozenset[str]:
    rows = [{"row_id": row_id} for row_id in seeds]
    return split_rows(rows, cast(Ancestry, MadeUpAncestry(seeds)), share, by).validation


def family_sizes(seeds: dict[str, list[str]]) -> list[int]:
    """The sizes of families, by joining sets of seeds until nothing is joined any more."""
    families: list[tuple[set[str], int]] = []
    for own in map(set, seeds.values()):
        linked = [family for family in families if family[0] & own]
        families = [family for family in families if not family[0] & own]
        joined = own.union(*(family[0] for family in linked))
        families.append((joined, 1 + sum(family[1] for family in linked)))
    return [size for _, size in families]


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.text("abcdef", min_size=1, max_size=4),
        st.lists(st.sampled_from("123456789"), min_size=1, max_size=2),
        min_size=2,
        max_size=30,
    ),
    st.floats(0.05, 0.6),
)
def test_no_seed_has_descendants_on_both_sides(seeds: dict[str, list[str]], share: float) -> None:
    try:
        validation = split(seeds, share)
    except RefineError:
        # No family is as small as what is wanted.
        wanted = max(1, round(share * len(seeds)))
        assert min(family_sizes(seeds)) > wanted
        return
    assert 1 <= len(validation) <= max(1, round(share * len(seeds)))
    assert validation < seeds.keys()
    seen = {side: set[str]() for side in (True, False)}
    for row_id, own in seeds.items():
        seen[row_id in validation].update(own)
    assert not seen[True] & seen[False]
    assert split(dict(reversed(seeds.items())), share) == validation


def test_rows_of_one_nearest_seed_stay_together() -> None:
    seeds = {f"r{n}": [str(n % 10), "shown to all"] for n in range(100)}
    validation = split(seeds, 0.2, "nearest")
    assert len(validation) == 20
    kept = {seeds[row_id][0] for row_id in seeds.keys() - validation}
    assert not kept & {seeds[row_id][0] for row_id in validation}
    with pytest.raises(RefineError, match="--split-by nearest"):
        split(seeds, 0.2)


def test_seeds_of_rows_are_found_through_all_that_prompts_showed(small_home: Home) -> None:
    warehouse = Warehouse(small_home.warehouse)
    ancestry = Ancestry(warehouse)
    by_text = {row["instruction"]: row for row in warehouse.read("raw_instructions").to_dicts()}
    assert ancestry.seeds(by_text["Name a colour."]) == ["s1", "s2"]
    assert ancestry.seeds(by_text["Name a bird."]) == ["s1", "s2", "s3"]
    for row in warehouse.read("instruction_dataset").to_dicts():
        assert ancestry.nearest_seed(row) == by_text[row["instruction"]]["row_id"]
