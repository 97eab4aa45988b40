"""The Self-Instruct loop: rounds of requests until enough candidates are accepted.

Request i of round r shows seeds, and instructions accepted in earlier rounds, both drawn by
rendezvous, and asks for more. A round's completions are parsed and decided on before the next round
starts. The loop ends at the target, after `stall_rounds` rounds without a single accepted
candidate, or after `max_rounds`.

In a later policy round (`policy_round.py`) the loop runs again with another policy: the pool begins
with the seeds and the former pool, slots and draws are the round's own, and the target counts what
is accepted beside the former pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_dagster import progress
from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Completion, Request, Sampling, request_seed
from refine_dagster.knobs import SelfInstructKnobs
from refine_dagster.lineage.rows import Parent, Row, make_row
from refine_dagster.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.self_instruct.decisions import SELF_INSTRUCT, Demonstration, InstructionDecider
from refine_dagster.self_instruct.draws import draw
from refine_dagster.self_instruct.machine_pool import MachinePool, slot_name
from refine_dagster.self_instruct.parsing import parse_task_list
from refine_dagster.self_instruct.prompts import STOP, propose_prompt


@dataclass(frozen=True)
class Proposer:
    """The model that proposes, as the loop sees it.

    Attributes:
        complete: answers requests in order.
        count_tokens: length of a text in the model's tokens.
        key_of: the key of the completion that answered a request.
        model: the model's fingerprint, which rows name as their policy.
        row: the model's row, the parent of every candidate.
    """

    complete: Callable[[Sequence[Request]], list[Completion]]
    count_tokens: Callable[[str], int]
    key_of: Callable[[Request], str]
    model: str
    row: Parent


@dataclass(frozen=True)
class Proposals:
    """What the loop made.

    Attributes:
        rows: rows of `raw_instructions`, in slot order.
        accepted: how many of them are accepted.
        rounds: rounds sent.
        ended_by: `target`, `stall` or `max_rounds`.
    """

    rows: list[Row]
    accepted: int
    rounds: int
    ended_by: str


def propose(
    seeds: Sequence[Demonstration],
    proposer: Proposer,
    knobs: SelfInstructKnobs,
    salt: str,
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Demonstration] = (),
) -> Proposals:
    """Run the loop.

    Args:
        seeds: the seed tasks; those longer than `max_demonstration_tokens` are not shown.
        salt: with the policy round, seeds every draw and all sampling noise.
        policy_round: whose candidates these are.
        former: the pool of the policy round before.

    Raises:
        RefineError: no seed is short enough to be shown.
    """
    shown = [
        seed
        for seed in seeds
        if proposer.count_tokens(seed.instruction) <= knobs.max_demonstration_tokens
    ]
    if not shown:
        raise RefineError(
            f"no seed instruction has at most {knobs.max_demonstration_tokens} tokens",
            where="self_instruct.max_demonstration_tokens",
            fix="raise the knob or add shorter seeds",
        )
    salt = policy_round.salt(salt)
    decider = InstructionDecider([*seeds, *former], knobs, policy_round)
    # Lanes go on from what was proposed; an evolved instruction belongs to none.
    pool = MachinePool(seeds, decider, knobs, [one for one in former if not one.evolved])
    rows: list[Row] = []
    stalled = number = 0
    with progress.task("accepted instructions", total=knobs.target) as advance:
        while not decider.full and stalled < knobs.stall_rounds and number < knobs.max_rounds:
            fresh = _round(number, shown, pool, proposer, knobs, salt, policy_round)
            before = len(decider.accepted)
            decider.decide(fresh)
            pool.add(fresh)
            gained = len(decider.accepted) - before
            stalled = 0 if gained else stalled + 1
            rows += fresh
            number += 1
            advance(gained, round=number, candidates=len(rows))
    if decider.full:
        ended_by = "target"
    else:
        ended_by = "stall" if stalled >= knobs.stall_rounds else "max_rounds"
    return Proposals(rows, len(decider.accepted), number, ended_by)


def _round(
    number: int,
    seeds: Sequence[Demonstration],
    pool: MachinePool,
    proposer: Proposer,
    knobs: SelfInstructKnobs,
    salt: str,
    policy_round: PolicyRound,
) -> list[Row]:
    shown = [
        demonstrations(
            seeds,
            [
                one
                for one in pool.of(number, request)
                if proposer.count_tokens(one.instruction) <= knobs.max_demonstration_tokens
            ],
            knobs,
            salt,
            number,
            request,
        )
        for request in range(knobs.requests_per_round)
    ]
    sampling = Sampling(
        max_new_tokens=knobs.max_new_tokens,
        temperature=knobs.temperature,
        top_p=knobs.top_p,
        presence_penalty=knobs.presence_penalty,
        stop=STOP,
    )
    requests = [
        Request(
            "propose",
            propose_prompt([one.instruction for one in demos]),
            sampling,
            request_seed(salt, "propose", number, place),
        )
        for place, demos in enumerate(shown)
    ]
    completions = proposer.complete(requests)
    return [
        row
        for place, (demos, request, completion) in enumerate(
            zip(shown, requests, completions, strict=True)
        )
        for row in _candidates(number, place, demos, request, completion, proposer, policy_round)
    ]


def demonstrations(
    seeds: Sequence[Demonstration],
    machine: Sequence[Demonstration],
    knobs: SelfInstructKnobs,
    salt: str,
    number: int,
    request: int,
) -> list[Demonstration]:
    """What request `request` of round `number` shows: seeds, then machine-made instructions.

    Seeds stand in for machine-made instructions that do not exist yet (REFINE-AF section 3.1).
    """
    by_slot = {one.name: one for one in machine}
    chosen = draw(by_slot, knobs.machine_demonstrations, salt, "machine", number, request)
    by_seed = {one.name: one for one in seeds}
    wanted = knobs.human_demonstrations + knobs.machine_demonstrations - len(chosen)
    human = draw(by_seed, wanted, salt, "human", number, request)
    return [by_seed[name] for name in human] + [by_slot[name] for name in chosen]


def _candidates(
    number: int,
    place: int,
    shown: Sequence[Demonstration],
    request: Request,
    completion: Completion,
    proposer: Proposer,
    policy_round: PolicyRound,
) -> list[Row]:
    parents = [proposer.row, *(one.as_parent("demonstration") for one in shown)]
    key = proposer.key_of(request)
    pieces = parse_task_list(completion.text, finished=completion.finish_reason != "length")
    return [
        make_row(
            policy_round.name("raw_instructions"),
            {
                "method": SELF_INSTRUCT,
                "slot": policy_round.slot(slot_name(number, place, position)),
                "round": number,
                "request": place,
                "position": position,
                "instruction": piece.text,
                "parsed": piece.problem is None,
                "parse_problem": piece.problem,
                "completion_key": key,
                "policy": proposer.model,
            },
            parents,
        )
        for position, piece in enumerate(pieces)
    ]
