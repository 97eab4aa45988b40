"""Resource `judge`: the automated feedback, lent while its model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import dagster as dg

from refine_dagster.device import Device
from refine_dagster.profile import JudgeKnobs, Profile
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.judge import Judge, Scores, loaded_judge
from refine_dagster.refine_af.published_judge import (
    PUBLISHED,
    find_published_models,
    loaded_published_judge,
)
from refine_dagster.refine_af.reward_rule import PRESETS
from resources.checkpoints import CheckpointsResource


class JudgeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Loads the judge that a row of `feedback_judge` speaks of."""

    @contextmanager
    def session(
        self,
        row: dict[str, Any],
        checkpoints: CheckpointsResource,
        device: Device,
        profile: Profile,
        base_scores: Sequence[Scores] = (),
    ) -> Iterator[Feedback]:
        """Lend the feedback: the loaded judge, the reward rule and the format gate.

        Args:
            row: the live row of `feedback_judge`.
            profile: its section `reward` names the rule, and `judge` a published judge's models.
            base_scores: the base policy's scores, over which the knob `whiten` standardises.
        """
        knobs = profile.reward
        with self._loaded(row, checkpoints, device, profile.judge) as judge:
            rule = replace(PRESETS[knobs.preset], diversity=knobs.diversity)
            feedback = Feedback(judge, rule, knobs.invalid_reward)
            yield feedback.whitened(base_scores) if knobs.whiten else feedback

    @contextmanager
    def _loaded(
        self,
        row: dict[str, Any],
        checkpoints: CheckpointsResource,
        device: Device,
        knobs: JudgeKnobs,
    ) -> Iterator[Judge]:
        """The judge of the row: a checkpoint of this home, or the published models."""
        if row["kind"] == PUBLISHED:
            models = find_published_models(knobs)
            with loaded_published_judge(models, knobs, device, row["fingerprint"]) as published:
                yield published
        else:
            folder = checkpoints.folder("feedback_judge", row["checkpoint_hash"])
            with loaded_judge(folder, device) as trained:
                yield trained
