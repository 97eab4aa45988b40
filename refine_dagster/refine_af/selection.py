"""Which instances may be learnt from: Self-Instruct's rules for instances, then the reward.

Each rule has a name and the first that fires is recorded on the row (methods B). The last rule is
this project's own selection: of the instances that abide by all rules, the share with the highest
reward is kept.
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
    """A policy's instance of one instruction, scored.

    Attributes:
        evolved: whether an instructor evolved the instruction: then its answer is judged too.
    """

    instruction: str
    scored: ScoredInstance
    evolved: bool = False


def decide_instances(
    instances: Sequence[Judged], config: SelectionConfig
) -> list[Rejection | None]:
    """The rejection of each instance, None where it is kept.

    Rules in order: `format` (the gate's own reason follows after a colon), `input_equals_output`,
    `ends_with_colon`, `contradiction` (the same instruction and input answered differently), for
    evolved instructions WizardLM's rules for answers (`hollow_answer`, `refused_answer`; an answer
    that was cut off fails the format), `low_reward`.
    """
    answers: dict[tuple[str, str], set[str]] = defaultdict(set)
    for one in instances:
        found = one.scored.instance
        if found.format_valid:
            answers[one.instruction, found.input].add(found.output)
    rejections = [_own_rejection(one, answers) for one in instances]
    rewards = sorted(
        one.scored.reward
        for one, rejection in zip(instances, rejections, strict=True)
        if not rejection
    )
    if not rewards:
        return rejections
    threshold = rewards[len(rewards) - math.ceil(config.keep_share * len(rewards))]
    return [
        Rejection("low_reward", one.scored.reward, threshold)
        if rejection is None and one.scored.reward < threshold
        else rejection
        for one, rejection in zip(instances, rejections, strict=True)
    ]


def _own_rejection(one: Judged, answers: dict[tuple[str, str], set[str]]) -> Rejection | None:
    found = one.scored.instance
    if found.problem is not None:
        return Rejection(f"format:{found.problem}")
    if found.input == found.output:
        return Rejection("input_equals_output")
    if found.input.endswith(":") or found.output.endswith(":"):
        return Rejection("ends_with_colon")
    if len(answers[one.instruction, found.input]) > 1:
        return Rejection("contradiction")
    return answer_rejection(found.output) if one.evolved else None
