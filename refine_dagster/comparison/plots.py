"""The plots of a comparison: scores over sizes, and differences over tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any

from refine_dagster.comparison.arms import BASE
from refine_dagster.comparison.duels import ROUGE_L
from refine_dagster.comparison.figures import Figures
from refine_dagster.comparison.study import CellResult, Study


@contextmanager
def _plot(path: Path) -> Iterator[Any]:
    """Axes to draw on, and at the end a picture at `path`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    yield axes
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))


def plot_sizes(figures: Figures, study: Study, path: Path) -> None:
    """Mean ROUGE-L over sizes, a line an arm."""
    arms = figures.arms
    with _plot(path) as axes:
        for name in dict.fromkeys(arm.arm for arm in arms):
            points = [arm for arm in arms if arm.arm == name]
            scores = [point.rouge_l for point in points]
            if name == BASE:
                axes.axhline(scores[0], color="grey", linestyle="--", label=name)
                continue
            axes.errorbar(
                [point.size for point in points],
                scores,
                yerr=[point.deviation or 0.0 for point in points],
                marker="o",
                markersize=4,
                capsize=3,
                linewidth=1.2,
                label=name,
            )
        axes.set_xlabel(study.size_label)
        axes.set_ylabel("mean ROUGE-L, points of 100")
        axes.set_title("Bars: standard deviation over random seeds", fontsize=9)


def plot_tasks(cells: Sequence[CellResult], figures: Figures, study: Study, path: Path) -> bool:
    """Sorted per-task differences at the largest size, a line an arm; False: nothing to draw."""
    duels = figures.duels
    if not duels:
        return False
    against, size = duels[0].against, max(duel.size for duel in duels)
    shown = [duel for duel in duels if (duel.measure, duel.against) == (ROUGE_L.name, against)]
    theirs = _task_means(cells, against, 0 if against == BASE else size)
    with _plot(path) as axes:
        axes.axhline(0, color="grey", linewidth=0.8)
        for duel in shown:
            if duel.size == size:
                ours = _task_means(cells, duel.arm, size)
                deltas = sorted(ours[task] - theirs[task] for task in ours)
                axes.plot(deltas, linewidth=1.2, label=duel.arm)
        axes.set_xlabel(f"held-out tasks, sorted for each arm; {size} {study.size_label}")
        axes.set_ylabel(f"ROUGE-L less that of {against}")
    return True


def _task_means(cells: Sequence[CellResult], arm: str, size: int) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for cell in cells:
        if (cell.arm, cell.size) == (arm, size):
            for task in cell.tasks:
                scores.setdefault(task.task, []).append(task.rouge_l)
    return {task: fmean(values) for task, values in scores.items()}
