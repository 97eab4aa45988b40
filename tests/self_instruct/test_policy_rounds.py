"""The loop of a later policy round: what it may show, what is novel, how its rows are named."""

from __future__ import annotations

from collections.abc import Sequence
from operator import methodcaller

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.generation.request import Completion, Request
from refine_dagster.self_instruct.decisions import (
    Demonstration,
    InstructionDecider,
    filtered_rows,
)
from refine_dagster.self_instruct.rounds import MachinePool, Proposer, propose, request_of
from refine_dagster.warehouse.rows import Parent, Row

SECOND = PolicyRound(2)
SEEDS = [Demonstration("seed_tasks", "0" * 32, "s1", "Name a fruit that grows on a tree.")]
TEXTS = (
    "Write two sentences about the cold sea.",
    "Count all letters of the longest word.",
    "Is this number even or is it odd?",
    "Give one rule for a game with cards.",
)
CONFIG = SelfInstructConfig(target=2, requests_per_round=2, max_rounds=2, stall_rounds=1)


class Script:
    """A policy that writes given texts, one a request, and remembers what it was asked."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = list(texts)
        self.asked: list[Request] = []

    def __call__(self, requests: Sequence[Request]) -> list[Completion]:
        self.asked += requests
        return [Completion(f" {self.texts.pop(0)}\n", "stop", 1, 1) for _ in requests]

    def proposer(self, asset: str) -> Proposer:
        return Proposer(
            self,
            lambda requests: [False] * len(requests),
            len,
            methodcaller("key", "backend"),
            f"model of {asset}",
            Parent(asset, "1" * 32, "generator"),
        )


def pool_of(rows: Sequence[Row], table: str) -> list[Demonstration]:
    return [Demonstration(table, row["row_id"], row["slot"], row["instruction"]) for row in rows]


def first_pool() -> list[Row]:
    made = propose(SEEDS, Script(TEXTS[:2]).proposer("base_model"), CONFIG, "salt")
    decided = InstructionDecider(SEEDS, CONFIG).decide(made.rows)
    return filtered_rows(made.rows, decided)


def test_a_second_round_goes_on_from_the_first_pool() -> None:
    pool = first_pool()
    former = pool_of(pool, "filtered_instructions")
    script = Script([TEXTS[0], *TEXTS[2:], TEXTS[3]])
    made = propose(SEEDS, script.proposer("rl_policy_checkpoint"), CONFIG, "salt", SECOND, former)
    assert [row["slot"][:3] for row in made.rows] == ["r2/"] * len(made.rows)
    assert {row["policy"] for row in made.rows} == {"model of rl_policy_checkpoint"}
    # The first text is in the former pool already; the target counts what comes beside it.
    decided = InstructionDecider([*SEEDS, *former], CONFIG, SECOND).decide(made.rows)
    assert [(row["instruction"], row["rule"]) for row in decided][:3] == [
        (TEXTS[0], "too_similar"),
        (TEXTS[2], "kept"),
        (TEXTS[3], "kept"),
    ]
    assert decided[0]["nearest_asset"] == "filtered_instructions"
    assert decided[0]["nearest_score"] == 1.0
    assert (made.accepted, made.ended_by) == (2, "target")
    # Each request shows what its own lane put into the former pool.
    for lane, request in enumerate(script.asked[:2]):
        (own,) = [one for one in former if request_of(one.name) == lane]
        (other,) = [one for one in former if request_of(one.name) != lane]
        assert own.instruction in request.prompt
        assert other.instruction not in request.prompt

    rows = filtered_rows(made.rows, decided, SECOND, pool)
    assert [(row["instruction"], row["accepted_in"]) for row in rows] == [
        (TEXTS[0], 1),
        (TEXTS[1], 1),
        (TEXTS[2], 2),
        (TEXTS[3], 2),
    ]
    assert rows[0]["parents"] == [
        {"asset": "filtered_instructions", "row_id": pool[0]["row_id"], "role": "former_pool"}
    ]
    assert {one["asset"] for one in rows[2]["parents"]} == {
        "raw_instructions_round_2",
        "instruction_decisions_round_2",
    }
    third = filtered_rows([], [], PolicyRound(3), rows)
    assert [row["accepted_in"] for row in third] == [1, 1, 2, 2]


def test_an_evolved_instruction_is_in_the_pool_and_never_shown() -> None:
    text = "Explain how a bridge carries the weight of a train."
    evolved = Demonstration("filtered_instructions", "2" * 32, "evolved/01/s1", text, evolved=True)
    former = [*pool_of(first_pool(), "filtered_instructions"), evolved]
    for machine_pool in ("lane", "all"):
        config = CONFIG.model_copy(update={"machine_pool": machine_pool, "stall_rounds": 2})
        script = Script([*TEXTS[:2], *TEXTS[:2]])
        made = propose(
            SEEDS, script.proposer("rl_policy_checkpoint"), config, "salt", SECOND, former
        )
        assert any(TEXTS[0] in request.prompt for request in script.asked)
        assert all(text not in request.prompt for request in script.asked)
        # It counts in the pool: what is proposed must be new beside it.
        copy = {**made.rows[0], "instruction": text}
        (decided,) = InstructionDecider([*SEEDS, *former], config, SECOND).decide([copy])
        assert (decided["rule"], decided["nearest_id"]) == ("too_similar", "2" * 32)


def test_noise_and_draws_are_the_rounds_own() -> None:
    one, two = Script(TEXTS[:2]), Script(TEXTS[:2])
    propose(SEEDS, one.proposer("base_model"), CONFIG, "salt", FIRST_ROUND)
    propose(SEEDS, two.proposer("base_model"), CONFIG, "salt", SECOND)
    assert [request.prompt for request in one.asked] == [request.prompt for request in two.asked]
    assert not {request.seed for request in one.asked} & {request.seed for request in two.asked}


def test_the_whole_pool_may_be_shown() -> None:
    former = pool_of(first_pool(), "filtered_instructions")
    config = SelfInstructConfig(machine_pool="all")
    decider = InstructionDecider([*SEEDS, *former], config, SECOND)
    pool = MachinePool(SEEDS, decider, config, former)
    assert pool.of(1, 0) == pool.of(1, 7) == former
