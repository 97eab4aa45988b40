"""A comparison's figures as tables, for the report's page and for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

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


@dataclass(frozen=True)
class FigureTable:
    """A table: its title, and under its headings a line for each figure."""

    title: str
    headings: Sequence[str]
    lines: Sequence[Sequence[Any]]

    def markdown(self) -> str:
        """The headings and lines as a Markdown table."""
        lines = [self.headings, ["---"] * len(self.headings), *self.lines]
        return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)

    def terminal(self) -> Table:
        """The table for a rich console."""
        table = Table(title=self.title, title_justify="left")
        for place, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if place else "left")
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
    """Arm against arm."""
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
    """The policies of every arm that trains one."""
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
    """Each part of the judge and downstream ROUGE-L."""
    return FigureTable(
        "The judge's scores and ROUGE-L",
        ["part", "of answers", "of datasets", "datasets"],
        [
            [link.part, _signed(link.of_answers), _signed(link.of_datasets), link.datasets]
            for link in figures.links
        ],
    )


def call_table(study: Study, figures: Figures) -> FigureTable:
    """What each method spent and had, for every number of calls.

    Examples are the mean over random seeds; *calls each* are those for an accepted instruction.
    """
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
    """What the table of calls counts, and what the comparison leaves open."""
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
