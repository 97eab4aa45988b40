"""The Self-Instruct loop: rounds of requests until enough candidates are accepted.

Request i of round r shows seeds, and instructions accepted in earlier rounds, both drawn by
rendezvous, and asks for more. A round's completions are parsed and decided on before the next round
starts. The loop ends at the target, after `stall_rounds` rounds without a single accepted
candidate, or after `max_rounds`.

In a later policy round (`policy_round.py`) the loop runs again with another policy: the pool begins
with the seeds and the former pool, slots and draws are the round's own, and the target counts what
is accepted beside the former pool.

Where a request's machine demonstrations come from: its own lane, or every accepted instruction.

The published loop draws them from all that was accepted so far. A changed seed then changes a few
prompts of the first round, what they wrote changes prompts of the second that drew from it, and
after some rounds most prompts have changed. A lane is the line of requests with one number, round
after round; a request that draws only from what its own lane wrote passes a change on to its lane
and to no other. For that the lane must decide by itself too: what it may show is what the decider
would accept on a pool of the seeds and the lane's own candidates, whatever other lanes wrote.

Along a lane the change still spreads: each round shows six more seeds, and once the changed one is
among them, all that the lane writes from there is new. So a lane begins afresh after `lane_rounds`
rounds, each at its own time, a part of them in every round. Of n seeds, one is then shown to or
passed on to about (8 + 6 (lane_rounds - 1) / 2) / n of the requests, however many rounds there are.

In a later policy round a lane goes on where it stopped: it may show what it put into the former
pool, and accepts what is novel beside that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from refine_dagster import progress
from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.draws import draw
from refine_dagster.errors import RefineError
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.generation.session import GeneratorSession
from refine_dagster.prompts.proposal import STOP, parse_task_list, propose_prompt
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import SELF_INSTRUCT, Demonstration, InstructionDecider
from refine_dagster.warehouse.rows import Parent, Row, make_row


class MachinePool:
    """Machine-made demonstrations by request number.

    Args:
        seeds: the seed tasks.
        decider: decides on all candidates; its pool is the one drawn from with
            `machine_pool: all`.
        config: `machine_pool`, and the rules of a lane's own decider.
        former: the pool of the former policy round; named by their slots.
    """

    def __init__(
        self,
        seeds: Sequence[Demonstration],
        decider: InstructionDecider,
        config: SelfInstructConfig,
        former: Sequence[Demonstration] = (),
    ) -> None:
        self._seeds = seeds
        self._all = decider
        self._config = config
        self._former = former
        self._former_of: defaultdict[int, list[Demonstration]] = defaultdict(list)
        for one in former:
            self._former_of[request_of(one.name)].append(one)
        self._lanes: dict[tuple[int, int], InstructionDecider] = {}

    def add(self, candidates: Sequence[Row]) -> None:
        """Take in a round's rows of `raw_instructions`, in slot order."""
        if self._config.machine_pool == "all":
            return
        by_lane: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
        for candidate in candidates:
            by_lane[self._lane(candidate["round"], candidate["request"])].append(candidate)
        for lane, rows in by_lane.items():
            if lane not in self._lanes:
                pool = [*self._seeds, *self._former_of[lane[0]]]
                self._lanes[lane] = InstructionDecider(pool, self._config)
            self._lanes[lane].decide(rows)

    def of(self, number: int, request: int) -> Sequence[Demonstration]:
        """What request `request` of round `number` may show."""
        if self._config.machine_pool == "all":
            return [*self._former, *self._all.accepted]
        lane = self._lanes.get(self._lane(number, request))
        return [*self._former_of[request], *(lane.accepted if lane else ())]

    def _lane(self, number: int, request: int) -> tuple[int, int]:
        """The request's number, and how often its lane has begun afresh by round `number`."""
        return request, (number + request) // self._config.lane_rounds


def slot_name(number: int, request: int, position: int) -> str:
    """A candidate's slot, zero-padded so that names sort as the places do.

    >>> slot_name(2, 17, 0)
    '0002/0017/000'
    """
    return f"{number:04d}/{request:04d}/{position:03d}"


def request_of(slot: str) -> int:
    """The number of the request whose completion a slot is in.

    >>> request_of("0002/0017/000"), request_of("r2/0000/0005/001")
    (17, 5)
    """
    return int(slot.split("/")[-2])


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

    @classmethod
    def of(cls, session: GeneratorSession, row: Parent) -> Proposer:
        """The model that a session has loaded."""
        count_tokens = session.backend.count_tokens
        return cls(session.complete, count_tokens, session.key_of, session.model, row)


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

    @property
    def figures(self) -> dict[str, int | str]:
        """What describes the rows."""
        return {
            "candidates": len(self.rows),
            "parsed": sum(row["parsed"] for row in self.rows),
            "accepted": self.accepted,
            "rounds": self.rounds,
            "ended_by": self.ended_by,
        }


def propose(
    seeds: Sequence[Demonstration],
    proposer: Proposer,
    config: SelfInstructConfig,
    run_seed: str,
    policy_round: PolicyRound = FIRST_ROUND,
    former: Sequence[Demonstration] = (),
) -> Proposals:
    """Run the loop.

    Args:
        seeds: the seed tasks; those longer than `max_demonstration_tokens` are not shown.
        run seed: with the policy round, seeds every draw and all sampling noise.
        policy_round: whose candidates these are.
        former: the pool of the policy round before.

    Raises:
        RefineError: no seed is short enough to be shown.
    """
    shown = [
        seed
        for seed in seeds
        if proposer.count_tokens(seed.instruction) <= config.max_demonstration_tokens
    ]
    if not shown:
        raise RefineError(
            f"no seed instruction has at most {config.max_demonstration_tokens} tokens",
            where="config field self_instruct.max_demonstration_tokens",
            fix="raise it, or add shorter seeds",
        )
    run_seed = policy_round.run_seed(run_seed)
    decider = InstructionDecider([*seeds, *former], config, policy_round)
    # Lanes go on from what was proposed; an evolved instruction belongs to none.
    pool = MachinePool(seeds, decider, config, [one for one in former if not one.evolved])
    rows: list[Row] = []
    stalled = number = 0
    with progress.task("accepted instructions", total=config.target) as advance:
        while not decider.full and stalled < config.stall_rounds and number < config.max_rounds:
            fresh = _round(number, shown, pool, proposer, config, run_seed, policy_round)
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
        ended_by = "stall" if stalled >= config.stall_rounds else "max_rounds"
    return Proposals(rows, len(decider.accepted), number, ended_by)


def _round(
    number: int,
    seeds: Sequence[Demonstration],
    pool: MachinePool,
    proposer: Proposer,
    config: SelfInstructConfig,
    run_seed: str,
    policy_round: PolicyRound,
) -> list[Row]:
    shown = [
        demonstrations(
            seeds,
            [
                one
                for one in pool.of(number, request)
                if proposer.count_tokens(one.instruction) <= config.max_demonstration_tokens
            ],
            config,
            run_seed,
            number,
            request,
        )
        for request in range(config.requests_per_round)
    ]
    sampling = Sampling(
        max_new_tokens=config.max_new_tokens,
        temperature=config.temperature,
        top_p=config.top_p,
        presence_penalty=config.presence_penalty,
        stop=STOP,
    )
    requests = [
        Request(
            "propose",
            propose_prompt([one.instruction for one in demos]),
            sampling,
            request_seed(run_seed, "propose", number, place),
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
    config: SelfInstructConfig,
    run_seed: str,
    number: int,
    request: int,
) -> list[Demonstration]:
    """What request `request` of round `number` shows: seeds, then machine-made instructions.

    Seeds stand in for machine-made instructions that do not exist yet (REFINE-AF section 3.1).
    """
    by_slot = {one.name: one for one in machine}
    chosen = draw(by_slot, config.machine_demonstrations, run_seed, "machine", number, request)
    by_seed = {one.name: one for one in seeds}
    wanted = config.human_demonstrations + config.machine_demonstrations - len(chosen)
    human = draw(by_seed, wanted, run_seed, "human", number, request)
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
    candidates = parse_task_list(completion.text, finished=completion.finish_reason != "length")
    return [
        make_row(
            policy_round.name("raw_instructions"),
            {
                "method": SELF_INSTRUCT,
                "slot": policy_round.slot(slot_name(number, place, position)),
                "round": number,
                "request": place,
                "position": position,
                "instruction": candidate.text,
                "parsed": candidate.problem is None,
                "parse_problem": candidate.problem,
                "completion_key": key,
                "policy": proposer.model,
            },
            parents,
        )
        for position, candidate in enumerate(candidates)
    ]
