"""Which instances are kept: Self-Instruct's rules for instances, then the share by reward.

The first rule that fires is recorded on the row (docs/methods.md, section 3.3). Selection by reward
is this project's own.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.config.dataset import SelectionConfig
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.self_instruct.heuristics import Rejection, answer_rejection


@dataclass(frozen=True)
class Judged:
    """A policy's scored instance of an instruction.

    Attributes:
        evolved: whether TeaMs-RL evolved the instruction; then WizardLM's rules apply too.
    """

    instruction: str
    scored: ScoredInstance
    evolved: bool = False


def decide_instances(
    instances: Sequence[Judged], config: SelectionConfig
) -> list[Rejection | None]:
    """The rejection of each instance; None where it is kept.

    Rules in order: `format:` and the gate's reason; `input_equals_output`; `ends_with_colon`;
    `contradiction` (the same instruction and input have different outputs); for evolved
    instructions WizardLM's `hollow_answer` and `refused_answer`; `low_reward`.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for judged in instances:
        instance = judged.scored.instance
        if instance.format_valid:
            answers[judged.instruction, instance.input].add(instance.output)
    rejections = [_rejection_by_rule(judged, answers) for judged in instances]
    rewards = sorted(
        judged.scored.reward
        for judged, rejection in zip(instances, rejections, strict=True)
        if not rejection
    )
    if not rewards:
        return rejections
    threshold = rewards[len(rewards) - math.ceil(config.keep_share * len(rewards))]
    return [
        Rejection("low_reward", judged.scored.reward, threshold)
        if rejection is None and judged.scored.reward < threshold
        else rejection
        for judged, rejection in zip(instances, rejections, strict=True)
    ]


def _rejection_by_rule(
    judged: Judged, answers: dict[tuple[str, str], set[str]]
) -> Rejection | None:
    instance = judged.scored.instance
    if instance.problem is not None:
        return Rejection(f"format:{instance.problem}")
    if instance.input == instance.output:
        return Rejection("input_equals_output")
    if instance.input.endswith(":") or instance.output.endswith(":"):
        return Rejection("ends_with_colon")
    if len(answers[judged.instruction, instance.input]) > 1:
        return Rejection("contradiction")
    return answer_rejection(instance.output) if judged.evolved else None
