"""A comparison's figures as tables in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from refine_dagster.comparison.call_table import CALL_HEADINGS
from refine_dagster.comparison.figures import Figures


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
