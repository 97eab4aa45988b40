"""Resource `judge`: the automated feedback, lent while its model is loaded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from refine_dagster.device import Device
from refine_dagster.profile import RewardKnobs
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.judge import Scores, loaded_judge
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
        knobs: RewardKnobs,
        base_scores: Sequence[Scores] = (),
    ) -> Iterator[Feedback]:
        """Lend the feedback: the loaded judge, the reward rule and the format gate.

        Args:
            row: the live row of `feedback_judge`.
            base_scores: the base policy's scores, over which the knob `whiten` standardises.
        """
        folder = checkpoints.folder("feedback_judge", row["checkpoint_hash"])
        with loaded_judge(folder, device) as judge:
            feedback = Feedback(judge, PRESETS[knobs.preset], knobs.invalid_reward)
            yield feedback.whitened(base_scores) if knobs.whiten else feedback
