"""Runs a study, one process for each random seed, and shows how far it is.

Random seeds share nothing that is written, so they run side by side. A process that is interrupted
leaves its finished cells; the next run takes the others up.
"""

from __future__ import annotations

import multiprocessing
from concurrent.futures import FIRST_EXCEPTION, Future, ProcessPoolExecutor, wait
from pathlib import Path

from refine_dagster import progress
from refine_dagster.comparison.cells import Cell, CellFolder
from refine_dagster.comparison.study import Study
from refine_dagster.comparison.trial import CELLS, run_trial
from refine_dagster.errors import RefineError

POLL_S = 1.0


def run_study(study: Study, root: Path, workers: int = 1) -> list[Cell]:
    """Compute what is not there yet and return every cell of the study, in the plan's order.

    Args:
        root: comparisons' folder; the study's own is named by what its cells depend on.
        workers: processes at a time.

    Raises:
        RefineError: of the first trial that failed; finished cells stay.
    """
    folder = root / study.name
    cells = CellFolder(folder / CELLS)
    places = study.places()

    def done() -> int:
        return sum(cells.has(one.arm.name, one.random_seed, one.size) for one in places)

    told = done()
    with progress.task("comparison, cells", total=len(places)) as advance:
        advance(told)
        if told < len(places):
            # A forked child would inherit PyTorch's threads and locks.
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, mp_context=context) as pool:
                running = {
                    pool.submit(_trial, study, number, folder)
                    for number in range(1, study.random_seeds + 1)
                }
                try:
                    while running:
                        finished, running = wait(running, POLL_S, FIRST_EXCEPTION)
                        now = done()
                        advance(now - told, seeds_running=min(workers, len(running)))
                        told = now
                        _raise_first(finished)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)
                    for process in multiprocessing.active_children():
                        process.terminate()
                    raise
    found = [cells.find(one.arm.name, one.random_seed, one.size) for one in places]
    return [cell for cell in found if cell is not None]


def _trial(study: Study, random_seed: int, folder: Path) -> int:
    """`run_trial` in a process of its own.

    Errors with arguments of their own do not survive the way back; their text does.
    """
    try:
        return run_trial(study, random_seed, folder)
    except RefineError as error:
        raise RefineError(str(error), where=f"random seed {random_seed}") from None


def _raise_first(finished: set[Future[int]]) -> None:
    for one in finished:
        one.result()
