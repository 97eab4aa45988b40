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

from refine_dagster.knobs import SelectionKnobs
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.self_instruct.heuristics import Verdict
from refine_dagster.teams_rl.elimination import answer_verdict


@dataclass(frozen=True)
class Judged:
    """A policy's instance of one instruction, scored.

    Attributes:
        evolved: whether an instructor evolved the instruction: then its answer is judged too.
    """

    instruction: str
    scored: ScoredInstance
    evolved: bool = False


def decide_instances(instances: Sequence[Judged], knobs: SelectionKnobs) -> list[Verdict | None]:
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
    verdicts = [_own_verdict(one, answers) for one in instances]
    rewards = sorted(
        one.scored.reward for one, verdict in zip(instances, verdicts, strict=True) if not verdict
    )
    if not rewards:
        return verdicts
    threshold = rewards[len(rewards) - math.ceil(knobs.keep_share * len(rewards))]
    return [
        Verdict("low_reward", one.scored.reward, threshold)
        if verdict is None and one.scored.reward < threshold
        else verdict
        for one, verdict in zip(instances, verdicts, strict=True)
    ]


def _own_verdict(one: Judged, answers: dict[tuple[str, str], set[str]]) -> Verdict | None:
    found = one.scored.instance
    if found.problem is not None:
        return Verdict(f"format:{found.problem}")
    if found.input == found.output:
        return Verdict("input_equals_output")
    if found.input.endswith(":") or found.output.endswith(":"):
        return Verdict("ends_with_colon")
    if len(answers[one.instruction, found.input]) > 1:
        return Verdict("contradiction")
    return answer_verdict(found.output) if one.evolved else None
