"""A comparison as files: a page of tables, its plots, and every score.

<name>.md                 tables, command, versions, seconds
<name>_sizes.png          mean ROUGE-L over the size of the dataset (or calls), a line an arm
<name>_tasks.png          per-task differences from the arm compared with
<name>_scores.csv         every task's score in every cell

What every arm of a comparison of methods spent and had, as a table, and how to read it.

A comparison's figures as tables in the terminal.
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
from typing import Any

from rich.console import Console
from rich.table import Table

from refine_dagster.comparison.arms import BASE
from refine_dagster.comparison.cells import CellResult
from refine_dagster.comparison.figures import Figures
from refine_dagster.comparison.methods import MethodCalls
from refine_dagster.comparison.study import Study

CALL_HEADINGS = (
    "arm",
    "calls",
    "proposals",
    "rewrites",
    "reviews",
    "training calls",
    "candidates",
    "instructions",
    "examples",
    "calls each",
    "with training",
)


def call_table(study: Study, figures: Figures) -> list[list[str]]:
    """A line for each method and number of calls, under `CALL_HEADINGS`.

    Examples are the mean over random seeds; *calls each* are those for an accepted instruction.
    """
    methods = {arm.name: arm.method for arm in study.arms}
    lines = []
    for one in figures.arms:
        method = methods[one.arm]
        if method is None:
            continue
        share = study.share(method, one.size)
        lines.append(
            [
                one.arm,
                str(share.calls),
                *(str(share.spent[role]) for role in ("propose", "rewrite", "review")),
                str(share.training),
                str(share.candidates),
                str(len(share.instructions)),
                f"{one.rows:.1f}",
                _each(share.per_instruction),
                _each(share.per_instruction_with_training),
            ]
        )
    return lines


def call_text(calls: MethodCalls) -> str:
    """What the table counts, and what the comparison leaves open."""
    totals = calls.totals
    return (
        "Each method has what the first of its calls brought, in the order in which the home made "
        "them (`both`: one half of each), and its candidates are decided on as though nothing else "
        "had been made, without a target. In all, the home made "
        f"{totals['self_instruct']} proposals and {totals['teams_rl']} rewrites and reviews, and "
        f"{calls.training} calls to train the instructor, which the equal numbers leave out. A "
        "call is a request, however long: a proposal writes several candidates, a rewrite one. A "
        "rewrite whose reviews would be beyond the number is left out.\n\n"
        "*Instructions* are the accepted candidates; *examples*, the base policy's instances of "
        "them that were selected, the mean over random seeds, at one more call for each "
        "instruction; *calls each*, the calls for an accepted instruction, then with the "
        "instructor's training. All arms with one number of calls take the same optimiser steps, "
        "set by the most instructions that any method has: an arm with fewer sees each more often, "
        "and one without examples is the base model. Random seeds draw instances and fine-tuning "
        "anew; the instructions stay, so the intervals say nothing about another run of either "
        "method."
    )


def _each(calls: float | None) -> str:
    return "" if calls is None else f"{calls:.2f}"


PACKAGES = ("refine-dagster", "torch", "transformers", "trl", "peft", "rouge-score")


@dataclass(frozen=True)
class Report:
    """What a report is made of.

    Attributes:
        title: the page's heading.
        study, cells, figures: what was compared and what was found.
        command: what made it, as typed.
        notes: paragraphs put under the heading.
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
    counted = study.size_name
    seconds = sum(cell.seconds for cell in report.cells)
    trained = {
        (cell.arm, cell.random_seed): cell.policy.seconds for cell in report.cells if cell.policy
    }
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    blocks = [
        f"# {report.title}",
        *report.notes,
        f"    {report.command}",
        f"Profile `{study.profile.name}`; {len(study.inputs.pool)} instructions in the pool, "
        f"{len(study.tasks)} held-out tasks with "
        f"{sum(len(task.instances) for task in study.tasks)} instances, "
        f"{study.random_seeds} random seeds. {versions}; Python {platform.python_version()}, "
        f"{os.cpu_count()} cores, device `{study.profile.device.device}`. "
        f"{seconds:.0f} s of fine-tuning and evaluation, {sum(trained.values()):.0f} s of "
        "reinforcement learning. ROUGE-L is in points of 100; brackets are 95 % intervals that "
        "resample tasks and random seeds.",
        "## Scores",
        _table(
            ["arm", counted, "rows", "ROUGE-L", "sd over seeds", "category mean", "exact match"],
            [
                [
                    one.arm,
                    one.size or "",
                    f"{one.rows:.0f}" if one.rows else "",
                    f"{one.rouge_l:.2f} [{one.low:.2f}, {one.high:.2f}]",
                    "" if one.deviation is None else f"{one.deviation:.2f}",
                    f"{one.macro:.2f}",
                    f"{one.exact_match:.2f}",
                ]
                for one in figures.arms
            ],
        ),
        f"![Mean ROUGE-L over {study.size_label}]({sizes})",
        *_calls(report),
        "## Arm against arm",
        _table(
            [
                "arm",
                "against",
                counted,
                "difference",
                "won / tied / lost",
                "tasks won",
                "sign test",
            ],
            [
                [
                    one.arm,
                    one.against,
                    one.size,
                    f"{one.mean_delta:+.2f} [{one.delta_low:+.2f}, {one.delta_high:+.2f}]",
                    f"{one.wins} / {one.ties} / {one.losses}",
                    f"{one.win_share:.0%} [{one.win_share_low:.0%}, {one.win_share_high:.0%}]",
                    f"p = {one.sign_test:.3f}",
                ]
                for one in figures.duels
            ],
        ),
    ]
    if tasks:
        blocks.append(f"![Per-task differences]({tasks})")
    if figures.policies:
        blocks += [
            "## Policies",
            "Reward is each arm's own rule, on instructions kept from training; *above zero* "
            "counts random seeds whose gain has an interval above zero.",
            _table(
                ["arm", "before", "after", "gain", "above zero", "KL", "ended by", "seconds"],
                [
                    [
                        one.arm,
                        f"{one.reward_before:.3f}",
                        f"{one.reward_after:.3f}",
                        f"{one.gain:+.3f}",
                        f"{one.gains_above_zero} of {one.random_seeds}",
                        f"{one.kl:.3f}",
                        ", ".join(f"{reason} {n}" for reason, n in one.ended_by.items()),
                        f"{one.seconds:.0f}",
                    ]
                    for one in figures.policies
                ],
            ),
        ]
    blocks += [
        "## The judge's opinion and ROUGE-L",
        "*Of answers*: Spearman correlation of the judge's opinion of an answer to a held-out "
        "instance with the answer's ROUGE-L, the mean over all cells. *Of datasets*: the same of "
        "the part's mean over a dataset with the ROUGE-L of the model that learned from it, both "
        "as differences from the mean of their size and random seed.",
        _table(
            ["part", "of answers", "of datasets", "datasets"],
            [
                [one.part, _signed(one.of_answers), _signed(one.of_datasets), one.datasets]
                for one in figures.links
            ],
        ),
    ]
    return "\n\n".join(blocks) + "\n"


def _calls(report: Report) -> list[str]:
    """What each method spent and had; nothing where no methods are compared."""
    methods = report.study.methods
    if methods is None:
        return []
    lines = call_table(report.study, report.figures)
    return ["## Calls", call_text(methods), _table(CALL_HEADINGS, lines)]


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


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


def show_figures(console: Console, figures: Figures, counted: str = "size") -> None:
    """Print scores, duels and policies; `counted` is what sizes count (`Study.size_name`)."""
    scores = Table(title="Mean ROUGE-L over held-out tasks and random seeds", title_justify="left")
    for heading in ("arm", counted, "rows", "seeds", "rouge_l", "95 % interval", "exact_match"):
        scores.add_column(heading, justify="left" if heading == "arm" else "right")
    for one in figures.arms:
        scores.add_row(
            one.arm,
            str(one.size or ""),
            f"{one.rows:.0f}" if one.rows else "",
            str(one.random_seeds),
            f"{one.rouge_l:.2f}",
            f"[{one.low:.2f}, {one.high:.2f}]".replace("[", "\\["),
            f"{one.exact_match:.2f}",
        )
    console.print(scores)
    if figures.duels:
        console.print(_duels(figures, counted))
    if figures.policies:
        console.print(_policies(figures))


def show_calls(console: Console, lines: Sequence[Sequence[str]]) -> None:
    """Print what each method spent and had: `call_table.call_table`'s lines."""
    table = Table(title="Calls, and what they brought", title_justify="left")
    for place, heading in enumerate(CALL_HEADINGS):
        table.add_column(heading, justify="right" if place else "left")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def _duels(figures: Figures, counted: str) -> Table:
    table = Table(title="Arm against arm", title_justify="left")
    for heading in ("arm", "against", counted, "difference", "won/tied/lost", "tasks won", "p"):
        table.add_column(heading)
    for one in figures.duels:
        table.add_row(
            one.arm,
            one.against,
            str(one.size),
            f"{one.mean_delta:+.2f} \\[{one.delta_low:+.2f}, {one.delta_high:+.2f}]",
            f"{one.wins}/{one.ties}/{one.losses}",
            f"{one.win_share:.0%} \\[{one.win_share_low:.0%}, {one.win_share_high:.0%}]",
            f"{one.sign_test:.3f}",
        )
    return table


def _policies(figures: Figures) -> Table:
    table = Table(title="Reward on held-out instructions", title_justify="left")
    for heading in ("arm", "before", "after", "gain", "seeds above 0", "KL", "ended by"):
        table.add_column(heading)
    for one in figures.policies:
        table.add_row(
            one.arm,
            f"{one.reward_before:.3f}",
            f"{one.reward_after:.3f}",
            f"{one.gain:+.3f}",
            f"{one.gains_above_zero} of {one.random_seeds}",
            f"{one.kl:.3f}",
            ", ".join(f"{reason} {count}" for reason, count in one.ended_by.items()),
        )
    return table
