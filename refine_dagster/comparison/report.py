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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

from rich.table import Table
from rich.text import Text

from refine_dagster.comparison.duels import MEASURES, REFERENCE_LOSS, ROUGE_L, Measure
from refine_dagster.comparison.figures import Figures
from refine_dagster.comparison.methods import MethodCalls
from refine_dagster.comparison.plots import plot_sizes, plot_tasks
from refine_dagster.comparison.study import CellResult, Study
from refine_dagster.escapes import terminal_text
from refine_dagster.evaluation.reference_loss import ANSWER_TOKENS, TaskKind

CALL_HEADINGS = (
    *("arm", "calls", "proposals", "rewrites", "reviews", "training calls", "candidates"),
    *("instructions", "examples", "calls each", "with training"),
)
SCORE_COLUMNS = (
    *("arm", "size", "random_seed", "task", "category", "kind"),
    *("rouge_l", "exact", "reference_loss", "uncalibrated_loss"),
)
KINDS: tuple[str, ...] = get_args(TaskKind)
MEASURE_NAMES = {REFERENCE_LOSS.name: "reference loss", ROUGE_L.name: "ROUGE-L"}
PACKAGES = ("refine-dagster", "torch", "transformers", "trl", "peft", "rouge-score")


LOSS_TEXT = (
    "The mean loss of the reference answers behind the evaluation's prompt, nats a token, the "
    f"lower the better; an answer counts with its first {ANSWER_TOKENS} tokens. Logits are divided "
    "by one temperature for each model, fitted on seeds that no arm learns from; *uncalibrated* is "
    "without. A task is a *classification* where its answers repeat. *Share of the way*: 0 % is "
    "`own_answers`, the base policy's own answers to the seeds, 100 % is `seeds_only`, people's "
    "answers to the same ones."
)


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
    plot_sizes(report.figures, report.study, sizes)
    drawn = plot_tasks(report.cells, report.figures, report.study, tasks)
    page.write_text(_page(report, sizes.name, tasks.name if drawn else None), encoding="utf-8")
    return page


def _page(report: Report, sizes: str, tasks: str | None) -> str:
    figures, study = report.figures, report.study
    losses, scores = loss_table(figures, study.size_name), score_table(figures, study.size_name)
    policies, links = policy_table(figures), link_table(figures)
    blocks = [f"# {report.title}", *report.notes, f"    {report.command}", _setting(report)]
    blocks += [f"## {losses.title}", LOSS_TEXT, losses.markdown()]
    blocks += [f"## {scores.title}", scores.markdown()]
    blocks.append(f"![Mean ROUGE-L over {study.size_label}]({sizes})")
    if study.methods is not None:
        calls = call_table(study, figures)
        blocks += [f"## {calls.title}", call_text(study.methods), calls.markdown()]
    for measure in MEASURES:
        duels = duel_table(figures, study.size_name, measure)
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
        writer.writerow(SCORE_COLUMNS)
        for cell in cells:
            for task, loss in zip(cell.tasks, cell.losses.tasks, strict=True):
                scores = [task.rouge_l, task.exact_match, loss.loss, loss.uncalibrated]
                key = cell.arm, cell.size, cell.random_seed, task.task, task.category, loss.kind
                writer.writerow([*key, *(round(score, 3) for score in scores)])


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
            table.add_row(*(Text(terminal_text(str(cell))) for cell in line))
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


def loss_table(figures: Figures, counted: str) -> FigureTable:
    """Every arm's reference loss at every size, and its share of the way between the ends."""
    return FigureTable(
        "Reference loss",
        [
            *("arm", counted, "nats a token", *KINDS),
            *("uncalibrated", "temperature", "share of the way"),
        ],
        [
            [
                one.arm,
                one.size or "",
                f"{one.loss:.3f} [{one.low:.3f}, {one.high:.3f}]",
                *(f"{one.kinds[kind]:.3f}" if kind in one.kinds else "" for kind in KINDS),
                f"{one.uncalibrated:.3f}",
                f"{one.temperature:.2f}",
                ""
                if one.way is None or one.way_interval is None
                else f"{one.way:.0%} [{one.way_interval.low:.0%}, {one.way_interval.high:.0%}]",
            ]
            for one in figures.losses
        ],
    )


def duel_table(figures: Figures, counted: str, measure: Measure) -> FigureTable:
    return FigureTable(
        f"Arm against arm, {MEASURE_NAMES[measure.name]}",
        [
            *("arm", "against", counted, "difference", "won / tied / lost", "tasks won"),
            *("sign test", *KINDS),
        ],
        [
            [
                duel.arm,
                duel.against,
                duel.size,
                _interval(duel.mean_delta, duel.delta_low, duel.delta_high),
                f"{duel.wins} / {duel.ties} / {duel.losses}",
                f"{duel.win_share:.0%} [{duel.win_share_low:.0%}, {duel.win_share_high:.0%}]",
                f"p = {duel.sign_test:.3f}",
                *(
                    _interval(of_kind.mean, of_kind.low, of_kind.high)
                    if (of_kind := duel.kinds.get(kind))
                    else ""
                    for kind in KINDS
                ),
            ]
            for duel in figures.duels
            if duel.measure == measure.name
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
        loss_table(figures, study.size_name),
        score_table(figures, study.size_name),
        *(duel_table(figures, study.size_name, measure) for measure in MEASURES),
        policy_table(figures),
    ]
    tables += [] if study.methods is None else [call_table(study, figures)]
    return (table for table in tables if table.lines)


def _interval(mean: float, low: float, high: float) -> str:
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def _decimals(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _signed(value: float | None) -> str:
    return "" if value is None else f"{value:+.2f}"
