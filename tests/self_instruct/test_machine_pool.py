"""A lane shows what it wrote itself; the whole pool shows what anybody wrote."""

from __future__ import annotations

from typing import Literal

from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider
from refine_dagster.self_instruct.rounds import MachinePool, slot_name
from refine_dagster.warehouse.rows import Row

SEEDS = [Demonstration("seed_tasks", "0" * 32, "s1", "Name a fruit that grows on a tree.")]
ROUND = (
    (0, "Write two sentences about the sea."),
    (0, "Count the letters of the word."),
    (1, "Write two sentences about the sea."),
    (1, "Is this number even or odd?"),
    (2, "Name a fruit that grows on a tree."),
)


def candidate(request: int, position: int, text: str, number: int = 0) -> Row:
    return {
        "row_id": f"{request:016d}{position:016d}",
        "method": "self_instruct",
        "slot": slot_name(number, request, position),
        "round": number,
        "request": request,
        "instruction": text,
        "parsed": True,
    }


def pools(machine_pool: Literal["lane", "all"]) -> tuple[list[str], list[str], list[str]]:
    # With four rounds to a lane, none of the three begins afresh in the second.
    config = SelfInstructConfig(machine_pool=machine_pool, lane_rounds=4)
    decider = InstructionDecider(SEEDS, config)
    pool = MachinePool(SEEDS, decider, config)
    rows = [candidate(request, place, text) for place, (request, text) in enumerate(ROUND)]
    decider.decide(rows)
    pool.add(rows)
    one, two, three = ([shown.instruction for shown in pool.of(1, n)] for n in range(3))
    return one, two, three


def test_a_lane_shows_what_it_wrote_itself() -> None:
    one, two, three = pools("lane")
    assert one == ["Write two sentences about the sea.", "Count the letters of the word."]
    # The other lane's copy does not count against it; the seeds do.
    assert two == ["Write two sentences about the sea.", "Is this number even or odd?"]
    assert three == []


def test_a_lane_begins_afresh_each_at_its_own_time() -> None:
    config = SelfInstructConfig(lane_rounds=2)
    pool = MachinePool(SEEDS, InstructionDecider(SEEDS, config), config)
    shown: dict[int, list[list[str]]] = {0: [], 1: []}
    for number in range(4):
        for request, texts in shown.items():
            texts.append([one.instruction for one in pool.of(number, request)])
        pool.add(
            [
                candidate(
                    request, 0, f"{verb} the word of round {number} {'again' * number}.", number
                )
                for request, verb in enumerate(("Spell", "Reverse"))
            ]
        )
    assert [len(texts) for texts in shown[0]] == [0, 1, 0, 1]
    assert [len(texts) for texts in shown[1]] == [0, 0, 1, 0]
    assert shown[0][3] == ["Spell the word of round 2 againagain."]


def test_the_whole_pool_shows_every_accepted_instruction() -> None:
    one, two, three = pools("all")
    assert one == two == three
    assert one == [
        "Write two sentences about the sea.",
        "Count the letters of the word.",
        "Is this number even or odd?",
    ]


def test_slots_sort_as_their_places() -> None:
    places = [(0, 0, 9), (0, 2, 0), (0, 10, 0), (1, 0, 0), (10, 0, 0)]
    assert sorted(slot_name(*place) for place in places) == [slot_name(*place) for place in places]
