"""Rows of the dataset, from the best rewarded to the worst, each with its ancestors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from refine_dagster.lineage.impact import COMPARED_ROLES, LEARNT_ROLES
from refine_dagster.lineage.trace import Trace, trace
from refine_dagster.lineage.trace_text import Branch, outline
from refine_dagster.warehouse.tables import MODELS
from refine_dagster.warehouse.warehouse import Warehouse

# Places in the order of rewards, from the highest.
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True)
class Sample:
    """A row of the dataset.

    Attributes:
        rank: its place by reward, from 1, of `of` rows.
        ancestors: the outline of its trace; every seed on the way is in it or counted.
        seeds: how many seeds it descends from by a chain of texts, without models' training.
    """

    row_id: str
    instruction: str
    input: str
    output: str
    reward: float
    parts: Mapping[str, float | None]
    rank: int
    of: int
    ancestors: Branch
    ancestors_total: int
    seeds: int


def read_samples(warehouse: Warehouse) -> list[Sample]:
    """Samples at fixed places in the order of rewards, ties by row id; fewer of a small dataset."""
    ordered = warehouse.query(
        "SELECT row_id, instruction, input, output, reward, parts "
        "FROM main.instruction_dataset ORDER BY reward DESC, row_id"
    )
    places = sorted({round(share * (ordered.height - 1)) for share in QUANTILES})
    samples = []
    for place in places if ordered.height else ():
        row = ordered.row(place, named=True)
        traced = trace(warehouse, row["row_id"])
        samples.append(
            Sample(
                **{**row, "parts": dict(row["parts"] or {})},
                rank=place + 1,
                of=ordered.height,
                ancestors=outline(traced),
                ancestors_total=traced.rows.height - 1,
                seeds=_seeds_by_text(traced),
            )
        )
    return samples


def _seeds_by_text(traced: Trace) -> int:
    """Seeds that the row reaches by texts alone, as `impact` counts them as shown."""
    tables = traced.rows["table"].to_list()
    above: dict[int, list[int]] = {}
    for child, parent, role in traced.edges.rows():
        if tables[child] not in MODELS and role not in (*LEARNT_ROLES, *COMPARED_ROLES):
            above.setdefault(child, []).append(parent)
    reached: set[int] = set()
    waiting = [0]
    while waiting:
        place = waiting.pop()
        if place not in reached:
            reached.add(place)
            waiting += above.get(place, ())
    return sum(tables[place] == "seed_tasks" for place in reached)
