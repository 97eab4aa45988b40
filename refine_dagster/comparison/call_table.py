"""What every arm of a comparison of methods spent and had, as a table, and how to read it."""

from __future__ import annotations

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
