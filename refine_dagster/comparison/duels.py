"""One arm against another, task by task, by one measure.

An arm wins a task where it is better there, averaged over the random seeds. The sign test asks how
often a fair coin would give so uneven a count of won and lost tasks, ties left out. Intervals
resample tasks and random seeds (`statistics.two_way_interval`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from refine_dagster.comparison.study import CellResult
from refine_dagster.evaluation.report import ROUNDING
from refine_dagster.seeding import request_seed
from refine_dagster.statistics import sign_test, two_way_interval

Table = list[list[float]]


@dataclass(frozen=True)
class Measure:
    """What arms are compared by; `better` is 1 where more is better and -1 where less is."""

    name: str
    better: int
    of_cell: Callable[[CellResult], list[float]]  # a value a task, in task order

    def table(self, cells: Sequence[CellResult], random_seeds: int | None = None) -> Table:
        """Values by random seed and task.

        The base arm draws no noise: its one run stands for every one of `random_seeds`.
        """
        ordered = sorted(cells, key=lambda cell: cell.random_seed)
        table = [self.of_cell(cell) for cell in ordered]
        return table * random_seeds if random_seeds and len(table) == 1 else table


REFERENCE_LOSS = Measure(
    "reference_loss", -1, lambda cell: [task.loss for task in cell.losses.tasks]
)
ROUGE_L = Measure("rouge_l", 1, lambda cell: [task.rouge_l for task in cell.tasks])
MEASURES = (REFERENCE_LOSS, ROUGE_L)


@dataclass(frozen=True)
class KindDelta:
    """The mean difference over the tasks of one kind."""

    tasks: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Duel:
    """One arm against another at one size; differences are the arm's value less the other's."""

    measure: str
    arm: str
    against: str
    size: int
    mean_delta: float
    delta_low: float
    delta_high: float
    wins: int
    ties: int
    losses: int
    win_share: float
    win_share_low: float
    win_share_high: float
    sign_test: float
    kinds: Mapping[str, KindDelta]  # kind of tasks -> its own difference; kinds without tasks lack


def duel_of(
    measure: Measure,
    ours: Sequence[CellResult],
    theirs: Sequence[CellResult],
    *,
    tie_margin: float,
    samples: int,
    run_seed: str,
) -> Duel:
    """Compare the cells of one arm with those of another, over the same tasks and random seeds."""
    arm, against = ours[0], theirs[0]
    table = measure.table(ours)
    other = measure.table(theirs, len(table))
    deltas = [
        [our - their for our, their in zip(*rows, strict=True)]
        for rows in zip(table, other, strict=True)
    ]
    of_task = [fmean(column) for column in zip(*deltas, strict=True)]
    margin = tie_margin + ROUNDING
    wins = sum(measure.better * delta > margin for delta in of_task)
    losses = sum(measure.better * delta < -margin for delta in of_task)
    name = () if measure is ROUGE_L else (measure.name,)
    seed = request_seed(run_seed, "duel", arm.arm, against.arm, arm.size, *name)
    delta_low, delta_high = two_way_interval(deltas, samples=samples, seed=seed)
    win_low, win_high = two_way_interval(
        deltas,
        samples=samples,
        seed=seed,
        figure=lambda drawn: (measure.better * drawn.mean(axis=0) > margin).mean(),
    )
    return Duel(
        measure=measure.name,
        arm=arm.arm,
        against=against.arm,
        size=arm.size,
        mean_delta=fmean(of_task),
        delta_low=delta_low,
        delta_high=delta_high,
        wins=wins,
        ties=len(of_task) - wins - losses,
        losses=losses,
        win_share=wins / len(of_task),
        win_share_low=win_low,
        win_share_high=win_high,
        sign_test=sign_test(wins, losses),
        kinds={
            kind: _kind_delta([[row[place] for place in places] for row in deltas], samples, seed)
            for kind, places in kind_places(arm).items()
        },
    )


def kind_places(cell: CellResult) -> dict[str, list[int]]:
    """Kind of tasks -> the places of its tasks, for kinds that there are."""
    places: dict[str, list[int]] = {}
    for place, task in enumerate(cell.losses.tasks):
        places.setdefault(task.kind, []).append(place)
    return {kind: places[kind] for kind in sorted(places, reverse=True)}


def _kind_delta(deltas: Table, samples: int, seed: int) -> KindDelta:
    low, high = two_way_interval(deltas, samples=samples, seed=seed)
    return KindDelta(len(deltas[0]), fmean(map(fmean, deltas)), low, high)
