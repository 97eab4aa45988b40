"""A comparison as files: a page of tables, its plots, and every score.

<name>.md                 tables, command, versions, seconds
<name>_sizes.png          mean ROUGE-L over the size of the dataset (or calls), a line an arm
<name>_tasks.png          per-task differences from the arm compared with
<name>_scores.csv         every task's score in every cell
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from refine_dagster.comparison.arms import BASE
from refine_dagster.comparison.cells import CellResult
from refine_dagster.comparison.figures import Figures
from refine_dagster.comparison.study import Study
from refine_dagster.comparison.tables import (
    call_table,
    call_text,
    duel_table,
    link_table,
    policy_table,
    score_table,
)

PACKAGES = ("refine-dagster", "torch", "transformers", "trl", "peft", "rouge-score")


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        title: the page's heading.
        study, cells, figures: what was compared, and the results.
        command: the command as typed.
        notes: paragraphs under the heading.
    """

    title: str
    study: Study
    cells: Sequence[CellResult]
    figures: Figures
    command: str
    notes: Sequence[str] = ()


def write_report(report: Report, folder: Path, name: str) -> Path:
    """Write the files and return the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / f"{name}.md"
    sizes, tasks = folder / f"{name}_sizes.png", folder / f"{name}_tasks.png"
    _write_scores(report.cells, folder / f"{name}_scores.csv")
    _plot_sizes(report, sizes)
    drawn = _plot_tasks(report, tasks)
    page.write_text(_page(report, sizes.name, tasks.name if drawn else None), encoding="utf-8")
    return page


def _page(report: Report, sizes: str, tasks: str | None) -> str:
    figures, study = report.figures, report.study
    scores, duels = score_table(figures, study.size_name), duel_table(figures, study.size_name)
    policies, links = policy_table(figures), link_table(figures)
    blocks = [f"# {report.title}", *report.notes, f"    {report.command}", _setting(report)]
    blocks += [f"## {scores.title}", scores.markdown()]
    blocks.append(f"![Mean ROUGE-L over {study.size_label}]({sizes})")
    if study.methods is not None:
        calls = call_table(study, figures)
        blocks += [f"## {calls.title}", call_text(study.methods), calls.markdown()]
    blocks += [f"## {duels.title}", duels.markdown()]
    if tasks:
        blocks.append(f"![Per-task differences]({tasks})")
    if policies.lines:
        blocks += [
            f"## {policies.title}",
            "Reward is each arm's own rule, on instructions kept from training; *above zero* "
            "counts random seeds whose gain has an interval above zero.",
            policies.markdown(),
        ]
    blocks += [
        f"## {links.title}",
        "*Of answers*: Spearman correlation of the judge's score of an answer to a held-out "
        "instance with the answer's ROUGE-L, the mean over all cells. *Of datasets*: the same of "
        "the part's mean over a dataset with the ROUGE-L of the model that learned from it, both "
        "as differences from the mean of their size and random seed.",
        links.markdown(),
    ]
    return "\n\n".join(blocks) + "\n"


def _setting(report: Report) -> str:
    """Profile, tasks, versions and seconds."""
    study = report.study
    seconds = sum(cell.seconds for cell in report.cells)
    trained = {
        (cell.arm, cell.random_seed): cell.policy.seconds for cell in report.cells if cell.policy
    }
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return (
        f"Profile `{study.profile.name}`; {len(study.inputs.pool)} instructions in the pool, "
        f"{len(study.tasks)} held-out tasks with "
        f"{sum(len(task.instances) for task in study.tasks)} instances, "
        f"{study.random_seeds} random seeds. {versions}; Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, device `{study.profile.device.device}`. "
        f"{seconds:.0f} s of fine-tuning and evaluation, {sum(trained.values()):.0f} s of "
        "reinforcement learning. ROUGE-L is in points of 100; brackets are 95 % intervals that "
        "resample tasks and random seeds."
    )


def _write_scores(cells: Sequence[CellResult], path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["arm", "size", "random_seed", "task", "category", "rouge_l", "exact"])
        for cell in cells:
            for task in cell.tasks:
                writer.writerow(
                    [
                        cell.arm,
                        cell.size,
                        cell.random_seed,
                        task.task,
                        task.category,
                        round(task.rouge_l, 3),
                        round(task.exact_match, 3),
                    ]
                )


def _plot_sizes(report: Report, path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    figures = report.figures
    for name in dict.fromkeys(one.arm for one in figures.arms):
        points = [one for one in figures.arms if one.arm == name]
        if name == BASE:
            axes.axhline(points[0].rouge_l, color="grey", linestyle="--", label=name)
            continue
        axes.errorbar(
            [one.size for one in points],
            [one.rouge_l for one in points],
            yerr=[one.deviation or 0.0 for one in points],
            marker="o",
            markersize=4,
            capsize=3,
            linewidth=1.2,
            label=name,
        )
    axes.set_xlabel(report.study.size_label)
    axes.set_ylabel("mean ROUGE-L, points of 100")
    axes.set_title("Bars: standard deviation over random seeds", fontsize=9)
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))


def _plot_tasks(report: Report, path: Path) -> bool:
    """Sorted per-task differences at the largest size, a line an arm; False: nothing to draw."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    cells, figures = report.cells, report.figures
    if not figures.duels:
        return False
    against, size = figures.duels[0].against, max(one.size for one in figures.duels)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(0, color="grey", linewidth=0.8)
    theirs = _task_means(cells, against, 0 if against == BASE else size)
    for name in [one.arm for one in figures.duels if one.against == against and one.size == size]:
        ours = _task_means(cells, name, size)
        axes.plot(sorted(ours[task] - theirs[task] for task in ours), linewidth=1.2, label=name)
    axes.set_xlabel(f"held-out tasks, sorted for each arm; {size} {report.study.size_label}")
    axes.set_ylabel(f"ROUGE-L less that of {against}")
    axes.legend(fontsize=8)
    FigureCanvasAgg(figure).print_png(str(path))
    return True


def _task_means(cells: Sequence[CellResult], arm: str, size: int) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for cell in cells:
        if (cell.arm, cell.size) == (arm, size):
            for task in cell.tasks:
                found.setdefault(task.task, []).append(task.rouge_l)
    return {task: fmean(scores) for task, scores in found.items()}
