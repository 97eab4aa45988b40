"""The judge that a row of `feedback_judge` speaks of, loaded, and the feedback made with it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from refine_dagster.device import Device
from refine_dagster.knobs import JudgeKnobs, RewardKnobs
from refine_dagster.lineage.checkpoints import CheckpointStore
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.judge import Judge, Scores, loaded_judge
from refine_dagster.refine_af.published_judge import (
    PUBLISHED,
    find_published_models,
    loaded_published_judge,
)
from refine_dagster.refine_af.reward_rule import PRESETS
from refine_dagster.registered_models import checkpoint_folder


@contextmanager
def lent_judge(
    row: Mapping[str, Any], store: CheckpointStore, device: Device, knobs: JudgeKnobs
) -> Iterator[Judge]:
    """The judge of the row: a checkpoint in the store, or the published models.

    Raises:
        CheckpointError: the checkpoint is gone.
        JudgeError: the judge is not the one that the row was made of.
    """
    if row["kind"] == PUBLISHED:
        models = find_published_models(knobs)
        with loaded_published_judge(models, knobs, device, row["fingerprint"]) as published:
            yield published
    else:
        folder = checkpoint_folder(store, "feedback_judge", row["checkpoint_hash"])
        with loaded_judge(folder, device) as trained:
            yield trained


def feedback_of(judge: Judge, knobs: RewardKnobs, base_scores: Sequence[Scores] = ()) -> Feedback:
    """The judge's scores weighed by the rule that the knobs name, behind the format gate.

    Args:
        base_scores: the base policy's scores, over which the knob `whiten` standardises.
    """
    rule = replace(PRESETS[knobs.preset], diversity=knobs.diversity)
    feedback = Feedback(judge, rule, knobs.invalid_reward)
    return feedback.whitened(base_scores) if knobs.whiten else feedback
