"""A request that no server answers becomes a rejected row with its reason, at every stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import methodcaller

from refine_dagster.config.dataset import InstanceConfig, SelectionConfig, SelfInstructConfig
from refine_dagster.generation.request import Completion, Request, Scoring
from refine_dagster.refine_af.feedback import Feedback
from refine_dagster.refine_af.instances import (
    InstancePrompt,
    Judged,
    decide_instances,
    instance_requests,
    scored_answers,
)
from refine_dagster.refine_af.reward import PRESETS
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.self_instruct.rounds import Proposer, propose
from refine_dagster.teams_rl.chain import Chain, Evolver
from refine_dagster.teams_rl.reviewer import ModelExecutor, ModelReviewer
from refine_dagster.warehouse.rows import Parent
from tests.builders.fake_judge import FakeJudge, scores_of
from tests.builders.rows import row

REFUSED = Completion("", "refused", 0, 0, problem="content_filter")


def answering(
    text: str, refuses: Callable[[Request], bool]
) -> Callable[[Sequence[Request]], list[Completion]]:
    """Writes `text`, and refuses what it is told to."""
    return lambda requests: [
        REFUSED if refuses(request) else Completion(text, "stop", 1, 1) for request in requests
    ]


def test_a_refused_proposal_is_one_candidate_that_says_so() -> None:
    config = SelfInstructConfig(
        requests_per_round=2, max_rounds=1, human_demonstrations=1, machine_demonstrations=0
    )
    seeds = [Demonstration("seed_tasks", "1" * 32, "seed_1", "Name a fruit.")]
    asked: list[Request] = []

    def complete(requests: Sequence[Request]) -> list[Completion]:
        asked.extend(requests)
        return answering(" Write about a bird.", lambda request: request is asked[0])(requests)

    proposer = Proposer(
        complete,
        lambda requests: [False for _ in requests],
        len,
        methodcaller("key", "model"),
        "model",
        Parent("base_model", "1" * 32, "generator"),
    )
    rows = propose(seeds, proposer, config, "seed").rows
    first = [row for row in rows if row["request"] == 0]
    assert [(row["parsed"], row["parse_problem"]) for row in first] == [(False, "refused")]
    [other] = [row for row in rows if row["request"] == 1]
    assert other["parsed"]
    decisions = InstructionDecider(seeds, config).decide(rows)
    assert [decision["rule"] for decision in decisions] == ["unparsed", "kept"]


def test_a_refused_instance_fails_the_format_gate_by_its_own_reason() -> None:
    prompts = [
        InstancePrompt(row("filtered_instructions", instruction=text), f"{text}\nInput:", ())
        for text in ("Name a fruit.", "Name a bird.")
    ]
    requests = instance_requests(prompts, InstanceConfig(), "seed")
    feedback = Feedback(FakeJudge(lambda example: scores_of()), PRESETS["refine_af"], -1.0)
    complete = answering(" <noinput>\nOutput: a pear", lambda one: "bird" in one.prompt)
    scored = scored_answers(prompts, requests, complete, feedback)
    assert [one.instance.problem for one in scored] == [None, "refused"]
    judged = [Judged("Name it.", one) for one in scored]
    rejections = decide_instances(judged, SelectionConfig(keep_share=1.0))
    assert [one.rule if one else None for one in rejections] == [None, "format:refused"]


def evolver(refuses: Callable[[Request], bool]) -> Evolver:
    def one(request: Request) -> Completion:
        if refuses(request):
            return REFUSED
        if isinstance(request.sampling, Scoring):
            asks_about_it = "small" in request.prompt.rsplit("Input:", 1)[-1]
            return Completion("[-0.1, -2.0]" if asks_about_it else "[-2.0, -0.1]", "scored", 1, 2)
        return Completion(" Name a small fruit that is red.", "stop", 1, 1)

    def complete(requests: Sequence[Request]) -> list[Completion]:
        return [one(request) for request in requests]

    return Evolver(ModelExecutor(complete, "seed"), ModelReviewer(complete, different_below=0.0))


def test_a_refused_rewrite_and_a_refused_review_are_eliminated() -> None:
    chain = Chain("seed_1", 0, "Name a fruit that is red.")

    def rule(refuses: Callable[[Request], bool]) -> str | None:
        [outcome] = evolver(refuses).step([chain], ["concretizing"])
        return outcome.rule

    assert rule(lambda request: False) is None
    assert rule(lambda request: request.role == "rewrite") == "refused"
    assert rule(lambda request: request.role == "review") == "unreviewed"
    # One of its two questions is enough.
    reviews: list[Request] = []

    def second(request: Request) -> bool:
        reviews.append(request)
        return request.role == "review" and len(reviews) == 3

    assert rule(second) == "unreviewed"
