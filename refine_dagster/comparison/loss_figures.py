"""Each arm's reference loss, and how far it goes from the model's own answers to people's.

The two ends of a test bed are two arms: `own_answers` and `seeds_only` learn from the same
instructions and inputs, one with the base policy's answers, the other with people's. An arm's share
of the way is 0 at the first end and 1 at the second; below 0 it is worse than own answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from refine_dagster.comparison.arms import OWN_ANSWERS, SEEDS_ONLY
from refine_dagster.comparison.duels import REFERENCE_LOSS, kind_places
from refine_dagster.comparison.study import CellResult
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import Interval, two_way_interval

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LossFigure:
    """One arm at one size, over tasks and random seeds; losses are nats a token."""

    arm: str
    size: int
    loss: float
    low: float
    high: float
    kinds: Mapping[str, float]  # kind of tasks -> the mean over its tasks
    uncalibrated: float
    temperature: float  # mean of those that were fitted
    way: float | None  # None where an end is missing, or both are alike
    way_interval: Interval | None


def loss_figures(
    groups: Mapping[tuple[str, int], Sequence[CellResult]], samples: int, run_seed: str
) -> list[LossFigure]:
    """A figure for every group of cells: (arm, size) -> one cell a random seed."""
    return [
        _figure(
            size,
            cells,
            groups.get((OWN_ANSWERS, size)),
            groups.get((SEEDS_ONLY, size)),
            samples,
            request_seed(run_seed, "loss", arm, size),
        )
        for (arm, size), cells in groups.items()
    ]


def _figure(
    size: int,
    cells: Sequence[CellResult],
    own: Sequence[CellResult] | None,
    people: Sequence[CellResult] | None,
    samples: int,
    seed: int,
) -> LossFigure:
    table = REFERENCE_LOSS.table(cells)
    low, high = two_way_interval(table, samples=samples, seed=seed)
    way, interval = None, None
    if own and people:
        way, interval = _way(cells, own, people, samples, seed)
    return LossFigure(
        arm=cells[0].arm,
        size=size,
        loss=fmean(map(fmean, table)),
        low=low,
        high=high,
        kinds={
            kind: fmean(row[place] for row in table for place in places)
            for kind, places in kind_places(cells[0]).items()
        },
        uncalibrated=fmean(task.uncalibrated for cell in cells for task in cell.losses.tasks),
        temperature=fmean(cell.losses.temperature for cell in cells),
        way=way,
        way_interval=interval,
    )


def _way(
    cells: Sequence[CellResult],
    own: Sequence[CellResult],
    people: Sequence[CellResult],
    samples: int,
    seed: int,
) -> tuple[float | None, Interval | None]:
    import numpy

    def share(drawn: NDArray[numpy.float64]) -> float:
        from_own, arm, to_people = drawn.reshape(-1, 3).mean(axis=0)
        whole = from_own - to_people
        return float((from_own - arm) / whole) if whole else float("nan")

    count = len(own)
    tables = [REFERENCE_LOSS.table(of_arm, count) for of_arm in (own, cells, people)]
    stacked = numpy.stack([numpy.asarray(table) for table in tables], axis=-1)
    way = share(stacked)
    if numpy.isnan(way):
        return None, None
    return way, two_way_interval(stacked, samples=samples, seed=seed, figure=share)
