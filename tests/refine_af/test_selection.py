"""Each rule for instances rejects what it names, in order, and nothing else."""

from __future__ import annotations

import pytest

from refine_dagster.config.dataset import SelectionConfig
from refine_dagster.prompts.example import Instance
from refine_dagster.refine_af.feedback import ScoredInstance
from refine_dagster.refine_af.instances import Judged, decide_instances

ALL = SelectionConfig(keep_share=1.0)


def judged(
    output: str,
    given: str = "two words",
    problem: str | None = None,
    *,
    instruction: str = "Say it.",
    reward: float = 1.0,
    evolved: bool = False,
) -> Judged:
    scored = ScoredInstance(Instance(given, output, problem), None, reward)
    return Judged(instruction, scored, evolved)


def rules(*instances: Judged, config: SelectionConfig = ALL) -> list[str | None]:
    return [
        rejection.rule if rejection else None for rejection in decide_instances(instances, config)
    ]


@pytest.mark.parametrize(
    ("instance", "rule"),
    [
        (judged("fine"), None),
        (judged("", problem="unfinished"), "format:unfinished"),
        (judged("two words"), "input_equals_output"),
        (judged("as follows:"), "ends_with_colon"),
        (judged("and the of ."), None),
        (judged("Sorry, that is too hard."), None),
        (judged("and the of .", evolved=True), "hollow_answer"),
        (judged("Sorry, that is too hard.", evolved=True), "refused_answer"),
        (judged("no", evolved=True), None),
        (judged("sorry " + "word " * 80, evolved=True), None),
        (judged("as follows:", evolved=True), "ends_with_colon"),
    ],
)
def test_one_instance(instance: Judged, rule: str | None) -> None:
    assert rules(instance) == [rule]


def test_two_answers_to_one_question_contradict_each_other() -> None:
    assert rules(judged("a"), judged("b"), judged("a", given="other words")) == [
        "contradiction",
        "contradiction",
        None,
    ]


def test_the_share_with_the_highest_reward_is_kept_of_what_abides_by_the_rules() -> None:
    instances = [
        judged(f"answer {number}", instruction=f"Say {number}.", reward=number)
        for number in range(4)
    ]
    refused = judged("and.", instruction="Say 9.", reward=9.0, evolved=True)
    half = SelectionConfig(keep_share=0.5)
    expected = ["low_reward", "low_reward", None, None, "hollow_answer"]
    assert rules(*instances, refused, config=half) == expected
