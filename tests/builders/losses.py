"""Reference losses of tasks t0, t1, ...: every second one a classification."""

from __future__ import annotations

from refine_dagster.evaluation.reference_loss import ReferenceLosses, TaskLoss


def losses_of(*losses: float, temperature: float = 1.5) -> ReferenceLosses:
    """Losses at the fitted temperature; without it they are one nat more."""
    return ReferenceLosses(
        temperature,
        tuple(
            TaskLoss(f"t{place}", "classification" if place % 2 else "generation", loss, loss + 1)
            for place, loss in enumerate(losses)
        ),
    )
