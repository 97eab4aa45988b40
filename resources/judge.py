"""Resource `judge`: the automated feedback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import dagster as dg

from refine_dagster.config.profile import Profile
from refine_dagster.judge.judge import Scores
from refine_dagster.models.device import Device
from refine_dagster.refine_af.feedback import Feedback, feedback_of, open_judge
from refine_dagster.warehouse.checkpoints import CheckpointStore


class JudgeResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Loads the judge that a row of `feedback_judge` stands for."""

    @contextmanager
    def session(
        self,
        row: dict[str, Any],
        checkpoints: CheckpointStore,
        device: Device,
        profile: Profile,
        base_scores: Sequence[Scores] = (),
    ) -> Iterator[Feedback]:
        """The loaded judge, the reward rule and the format gate.

        Args:
            row: the live row of `feedback_judge`.
            profile: its section `reward` names the rule, and `judge` a published judge's models.
            base_scores: the base policy's scores, over which `reward.whiten` standardises.
        """
        with open_judge(row, checkpoints, device, profile.judge) as judge:
            yield feedback_of(judge, profile.reward, base_scores)
