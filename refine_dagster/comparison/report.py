"""A comparison as tables in the terminal, and as files.

<name>.md                 tables, command, versions, seconds
<name>_sizes.png          mean ROUGE-L over the size of the dataset (or calls), a line an arm
<name>_tasks.png          per-task differences from the arm compared with
<name>_scores.csv         every task's score in every cell
"""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.table import Table
from rich.text import Text

from refine_dagster.comparison.arms import BASE
from refine_dagster.comparison.figures import Figures
from refine_dagster.comparison.methods import MethodCalls
from refine_dagster.comparison.study import CellResult, Study

CALL_HEADINGS = (
    *("arm", "calls", "proposals", "rewrites", "reviews", "training calls", "candidates"),
    *("instructions", "examples", "calls each", "with training"),
)
PACKAGES = ("refine-dagster", "torch", "transformers", "trl", "peft", "rouge-score")


@dataclass(frozen=True)
class Report:
    """What a page shows; `notes` are paragraphs under the heading."""

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
                scores = round(task.rouge_l, 3), round(task.exact_match, 3)
                key = cell.arm, cell.size, cell.random_seed
                writer.writerow([*key, task.task, task.category, *scores])


@dataclass(frozen=True)
class FigureTable:
    """A table: its title, and under its headings a line for each figure."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        lines = [self.headings, ["---"] * len(self.headings), *self.lines]
        return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

    def terminal(self) -> Table:
        table = Table(title=self.title, title_justify="left")
        for number, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if number else "left")
        for line in self.lines:
            table.add_row(*(Text(str(cell)) for cell in line))
        return table


def score_table(figures: Figures, counted: str) -> FigureTable:
    """Every arm at every size; `counted` is what sizes count (`Study.size_name`)."""
    return FigureTable(
        "Scores",
        ["arm", counted, "rows", "ROUGE-L", "sd over seeds", "category mean", "exact match"],
        [
            [
                arm.arm,
                arm.size or "",
                f"{arm.rows:.0f}" if arm.rows else "",
                f"{arm.rouge_l:.2f} [{arm.low:.2f}, {arm.high:.2f}]",
                _decimals(arm.deviation),
                f"{arm.macro:.2f}",
                f"{arm.exact_match:.2f}",
            ]
            for arm in figures.arms
        ],
    )


def duel_table(figures: Figures, counted: str) -> FigureTable:
    return FigureTable(
        "Arm against arm",
        ["arm", "against", counted, "difference", "won / tied / lost", "tasks won", "sign test"],
        [
            [
                duel.arm,
                duel.against,
                duel.size,
                f"{duel.mean_delta:+.2f} [{duel.delta_low:+.2f}, {duel.delta_high:+.2f}]",
                f"{duel.wins} / {duel.ties} / {duel.losses}",
                f"{duel.win_share:.0%} [{duel.win_share_low:.0%}, {duel.win_share_high:.0%}]",
                f"p = {duel.sign_test:.3f}",
            ]
            for duel in figures.duels
        ],
    )


def policy_table(figures: Figures) -> FigureTable:
    return FigureTable(
        "Policies",
        ["arm", "before", "after", "gain", "above zero", "KL", "ended by", "seconds"],
        [
            [
                policy.arm,
                f"{policy.reward_before:.3f}",
                f"{policy.reward_after:.3f}",
                f"{policy.gain:+.3f}",
                f"{policy.gains_above_zero} of {policy.random_seeds}",
                f"{policy.kl:.3f}",
                ", ".join(f"{reason} {n}" for reason, n in policy.ended_by.items()),
                f"{policy.seconds:.0f}",
            ]
            for policy in figures.policies
        ],
    )


def link_table(figures: Figures) -> FigureTable:
    return FigureTable(
        "The judge's scores and ROUGE-L",
        ["part", "of answers", "of datasets", "datasets"],
        [
            [link.part, _signed(link.of_answers), _signed(link.of_datasets), link.datasets]
            for link in figures.links
        ],
    )


def call_table(study: Study, figures: Figures) -> FigureTable:
    """What each method spent and had, for every number of calls (see `call_text`)."""
    methods = {arm.name: arm.method for arm in study.arms}
    lines = []
    for arm in figures.arms:
        method = methods[arm.arm]
        if method is None:
            continue
        share = study.share(method, arm.size)
        lines.append(
            [
                arm.arm,
                share.calls,
                *(share.spent[role] for role in ("propose", "rewrite", "review")),
                share.training,
                share.candidates,
                len(share.instructions),
                f"{arm.rows:.1f}",
                _decimals(share.per_instruction),
                _decimals(share.per_instruction_with_training),
            ]
        )
    return FigureTable("Calls", CALL_HEADINGS, lines)


def call_text(calls: MethodCalls) -> str:
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
        "and one without examples is the base model. Random seeds redraw instances and "
        "fine-tuning; the instructions stay, so the intervals say nothing about another run of "
        "either method."
    )


def shown_tables(study: Study, figures: Figures) -> Iterable[FigureTable]:
    """The tables for the terminal; those without a line are left out."""
    tables = [
        score_table(figures, study.size_name),
        duel_table(figures, study.size_name),
        policy_table(figures),
    ]
    tables += [] if study.methods is None else [call_table(study, figures)]
    return (table for table in tables if table.lines)


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"


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


def _plot_sizes(report: Report, path: Path) -> None:
    arms = report.figures.arms
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
        axes.set_xlabel(report.study.size_label)
        axes.set_ylabel("mean ROUGE-L, points of 100")
        axes.set_title("Bars: standard deviation over random seeds", fontsize=9)


def _plot_tasks(report: Report, path: Path) -> bool:
    """Sorted per-task differences at the largest size, a line an arm; False: nothing to draw."""
    cells, duels = report.cells, report.figures.duels
    if not duels:
        return False
    against, size = duels[0].against, max(duel.size for duel in duels)
    theirs = _task_means(cells, against, 0 if against == BASE else size)
    with _plot(path) as axes:
        axes.axhline(0, color="grey", linewidth=0.8)
        for duel in duels:
            if (duel.against, duel.size) == (against, size):
                ours = _task_means(cells, duel.arm, size)
                deltas = sorted(ours[task] - theirs[task] for task in ours)
                axes.plot(deltas, linewidth=1.2, label=duel.arm)
        axes.set_xlabel(f"held-out tasks, sorted for each arm; {size} {report.study.size_label}")
        axes.set_ylabel(f"ROUGE-L less that of {against}")
    return True


def _task_means(cells: Sequence[CellResult], arm: str, size: int) -> dict[str, float]:
    scores: dict[str, list[float]] = {}
    for cell in cells:
        if (cell.arm, cell.size) == (arm, size):
            for task in cell.tasks:
                scores.setdefault(task.task, []).append(task.rouge_l)
    return {task: fmean(values) for task, values in scores.items()}
