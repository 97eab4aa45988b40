"""The Self-Instruct loop: rounds of requests until enough candidates are accepted.

Request i of round r shows seeds and instructions accepted in earlier rounds, both drawn by
rendezvous, and asks for more. A round's completions are parsed and decided on before the next round
starts; after an edit, what no other answer decides is sent together (`_Requests.send_ahead`). The
loop ends at the target, after `stall_rounds` rounds without an accepted candidate, or
after `max_rounds`.

In a later policy round (`config/policy_round.py`) the loop runs again with another policy: the pool
begins with the seeds and the former pool, slots and draws are the round's own, and the target
counts what is accepted in addition to the former pool.

`MachinePool` gives each request its machine demonstrations: by default those of its own lane, the
requests with the same number (docs/architecture.md, section 3.2).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from refine_dagster import progress
from refine_dagster.config.dataset import SelfInstructConfig
from refine_dagster.config.policy_round import FIRST_ROUND, PolicyRound
from refine_dagster.draws import draw, draw_different
from refine_dagster.errors import RefineError
from refine_dagster.generation.completions import GeneratorSession
from refine_dagster.generation.request import Completion, Request, Sampling
from refine_dagster.language import ENGLISH, Language
from refine_dagster.prompts.example import has_marks
from refine_dagster.prompts.proposal import STOP, Candidate, parse_task_list, propose_prompt
from refine_dagster.seeding import request_seed
from refine_dagster.self_instruct.decisions import SELF_INSTRUCT, Demonstration, InstructionDecider
from refine_dagster.warehouse.rows import Parent, Row, make_row


class MachinePool:
    """Machine demonstrations by request number.

    `decider` decides on all candidates; `machine_pool: all` draws from what it accepted. `former`
    is the pool of the policy round before.
    """

    def __init__(
        self,
        seeds: Sequence[Demonstration],
        decider: InstructionDecider,
        config: SelfInstructConfig,
        former: Sequence[Demonstration] = (),
        language: Language = ENGLISH,
    ) -> None:
        self._seeds = seeds
        self._language = language
        self._all = decider
        self._config = config
        self._former = former
        self._former_of: defaultdict[int, list[Demonstration]] = defaultdict(list)
        for demonstration in former:
            self._former_of[request_of(demonstration.name)].append(demonstration)
        self._lanes: dict[tuple[int, int], InstructionDecider] = {}

    def add(self, candidates: Sequence[Row]) -> None:
        """Add a round's rows of `raw_instructions`, in slot order."""
        if self._config.machine_pool == "all":
            return
        by_lane: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
        for candidate in candidates:
            by_lane[self._lane(candidate["round"], candidate["request"])].append(candidate)
        for lane, rows in by_lane.items():
            if lane not in self._lanes:
                pool = [*self._seeds, *self._former_of[lane[0]]]
                self._lanes[lane] = InstructionDecider(pool, self._config, language=self._language)
            self._lanes[lane].decide(rows)

    def of(self, number: int, request: int) -> Sequence[Demonstration]:
        """The demonstrations that request `request` of round `number` may show."""
        if self._config.machine_pool == "all":
            return [*self._former, *self._all.accepted]
        lane = self._lanes.get(self._lane(number, request))
        return [*self._former_of[request], *(lane.accepted if lane else ())]

    def waits_for(self, number: int, request: int) -> int:
        """How many earlier requests this one's demonstrations may come from: those of its lane."""
        if self._config.machine_pool == "all":
            return number * self._config.requests_per_round
        return min(number, (number + request) % self._config.lane_rounds)

    def _lane(self, number: int, request: int) -> tuple[int, int]:
        """The request's number, and how often its lane has started over by round `number`."""
        return request, (number + request) // self._config.lane_rounds


def slot_name(number: int, request: int, position: int) -> str:
    """A candidate's slot, zero-padded so that slots sort like their numbers.

    >>> slot_name(2, 17, 0)
    '0002/0017/000'
    """
    return f"{number:04d}/{request:04d}/{position:03d}"


def request_of(slot: str) -> int:
    """The request number of a slot.

    >>> request_of("0002/0017/000"), request_of("r2/0000/0005/001")
    (17, 5)
    """
    return int(slot.split("/")[-2])


@dataclass(frozen=True)
class Proposer:
    """The model that proposes."""

    complete: Callable[[Sequence[Request]], list[Completion]]
    stored: Callable[[Sequence[Request]], list[bool]]  # whether each completion is known
    count_tokens: Callable[[str], int]
    key_of: Callable[[Request], str]
    model: str  # its fingerprint, the `policy` of the rows
    row: Parent  # a parent of every candidate

    @classmethod
    def of(cls, session: GeneratorSession, row: Parent) -> Proposer:
        """The model that a session has loaded."""
        count_tokens = session.backend.count_tokens
        return cls(
            session.complete, session.stored, count_tokens, session.key_of, session.model, row
        )


@dataclass(frozen=True)
class Proposals:
    """The loop's result: rows of `raw_instructions`, in slot order."""

    rows: list[Row]
    accepted: int
    rounds: int
    ended_by: str  # `target`, `stall` or `max_rounds`

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
    language: Language = ENGLISH,
) -> Proposals:
    """Run the loop.

    Args:
        seeds: the seed tasks; those longer than `max_demonstration_tokens`, or with marks of a
            prompt (`has_marks`), are not shown.
        run_seed: with the policy round, seeds every draw and all sampling.
        policy_round: the round of the candidates.
        former: the pool of the policy round before.
        language: of the prompt, and of the rules that decide.

    Raises:
        RefineError: no seed is short enough to be shown.
    """

    def short(pool: Sequence[Demonstration]) -> list[Demonstration]:
        limit = config.max_demonstration_tokens
        return [shown for shown in pool if proposer.count_tokens(shown.instruction) <= limit]

    shown_seeds = [seed for seed in short(seeds) if not has_marks(seed.instruction)]
    if not shown_seeds:
        raise RefineError(
            f"no seed instruction has at most {config.max_demonstration_tokens} tokens and no "
            "line that begins like one of a prompt",
            where="config field self_instruct.max_demonstration_tokens",
            fix="raise it, or add shorter seeds",
        )
    run_seed = policy_round.run_seed(run_seed)
    decider = InstructionDecider([*seeds, *former], config, policy_round, language)
    # Lanes continue from what was proposed; an evolved instruction belongs to none.
    proposed = [demonstration for demonstration in former if not demonstration.evolved]
    pool = MachinePool(seeds, decider, config, proposed, language)

    def shown(number: int, request: int) -> list[Demonstration]:
        machine = short(pool.of(number, request))
        return demonstrations(shown_seeds, machine, config, run_seed, number, request)

    requests = _Requests(shown, pool, proposer, config, run_seed, policy_round, language)
    requests.send_ahead()
    rows: list[Row] = []
    stalled = number = 0
    with progress.task("accepted instructions", total=config.target) as advance:
        while not decider.full and stalled < config.stall_rounds and number < config.max_rounds:
            candidates = requests.candidates(number)
            before = len(decider.accepted)
            decider.decide(candidates)
            gained = len(decider.accepted) - before
            stalled = 0 if gained else stalled + 1
            rows += candidates
            number += 1
            advance(gained, round=number, candidates=len(rows))
    if decider.full:
        ended_by = "target"
    else:
        ended_by = "stall" if stalled >= config.stall_rounds else "max_rounds"
    return Proposals(rows, len(decider.accepted), number, ended_by)


Slot = tuple[int, int]
_Asked = tuple[Request, list[Demonstration]]


class _Requests:
    """The loop's requests, named by (round, request), and the candidates in their completions.

    Args:
        shown: the demonstrations of a request, by what `pool` has so far.
        pool: gets the candidates of each request.
    """

    def __init__(
        self,
        shown: Callable[[int, int], list[Demonstration]],
        pool: MachinePool,
        proposer: Proposer,
        config: SelfInstructConfig,
        run_seed: str,
        policy_round: PolicyRound,
        language: Language,
    ) -> None:
        self._language = language
        self._shown, self._pool, self._proposer = shown, pool, proposer
        self._config, self._run_seed, self._policy_round = config, run_seed, policy_round
        self._rows: dict[Slot, list[Row]] = {}
        self._sampling = Sampling(
            max_new_tokens=config.max_new_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            presence_penalty=config.presence_penalty,
            stop=STOP,
            lines=config.tasks_per_completion,
        )

    def candidates(self, number: int) -> list[Row]:
        """Rows of `raw_instructions` of a round, in slot order."""
        slots = self._slots(number)
        if missing := [slot for slot in slots if slot not in self._rows]:
            self._ask({slot: self._request(slot) for slot in missing})
        return [row for slot in slots for row in self._rows[slot]]

    def send_ahead(self) -> None:
        """Ask together what an edited seed changes in the rounds that the store has.

        A lane's first request shows seeds alone, its next one what came before in that lane: so the
        k-th requests of all lanes and rounds wait for nothing but the (k-1)-th. A round is taken
        for one that an earlier run asked where at least half of its first requests are stored.
        """
        waves: defaultdict[int, list[Slot]] = defaultdict(list)
        first: dict[Slot, _Asked] = {}
        for number in range(self._config.max_rounds):
            slots = self._slots(number)
            of_round = {s: self._request(s) for s in slots if self._pool.waits_for(*s) == 0}
            if not of_round:
                break
            stored = self._proposer.stored([request for request, _ in of_round.values()])
            if 2 * sum(stored) < len(of_round):
                break
            first |= of_round
            for slot in slots:
                waves[self._pool.waits_for(*slot)].append(slot)
        for _, wave in sorted(waves.items()):
            self._ask({slot: first.get(slot) or self._request(slot) for slot in wave})

    def _slots(self, number: int) -> list[Slot]:
        return [(number, request) for request in range(self._config.requests_per_round)]

    def _request(self, slot: Slot) -> _Asked:
        shown = self._shown(*slot)
        instructions = [demonstration.instruction for demonstration in shown]
        prompt = propose_prompt(instructions, self._language)
        seed = request_seed(self._run_seed, "propose", *slot)
        return Request("propose", prompt, self._sampling, seed), shown

    def _ask(self, asked: Mapping[Slot, _Asked]) -> None:
        """Ask these requests, and give the pool their candidates."""
        completions = self._proposer.complete([request for request, _ in asked.values()])
        for ((number, index), (request, shown)), completion in zip(
            asked.items(), completions, strict=True
        ):
            key, finished = self._proposer.key_of(request), completion.finish_reason != "length"
            parents = [self._proposer.row, *(item.as_parent("demonstration") for item in shown)]
            rows = self._rows[number, index] = []
            candidates = parse_task_list(completion.text, finished=finished)
            if completion.refused:
                candidates = [Candidate("", "refused")]
            for position, candidate in enumerate(candidates):
                payload = {
                    "method": SELF_INSTRUCT,
                    "slot": self._policy_round.slot(slot_name(number, index, position)),
                    "round": number,
                    "request": index,
                    "position": position,
                    "instruction": candidate.text,
                    "parsed": candidate.problem is None,
                    "parse_problem": candidate.problem,
                    "completion_key": key,
                    "policy": self._proposer.model,
                }
                table = self._policy_round.name("raw_instructions")
                rows.append(make_row(table, payload, parents))
        self._pool.add([row for slot in asked for row in self._rows[slot]])


def demonstrations(
    seeds: Sequence[Demonstration],
    machine: Sequence[Demonstration],
    config: SelfInstructConfig,
    run_seed: str,
    number: int,
    request: int,
) -> list[Demonstration]:
    """The demonstrations of request `request` of round `number`: seeds, then machine ones.

    Seeds take the place of machine demonstrations that do not exist yet (REFINE-AF, section 3.1).
    """
    by_slot = {demonstration.name: demonstration for demonstration in machine}
    chosen = draw(by_slot, config.machine_demonstrations, run_seed, "machine", number, request)
    by_seed = {seed.name: seed for seed in seeds}
    wanted = config.human_demonstrations + config.machine_demonstrations - len(chosen)
    instructions = {seed.name: seed.instruction for seed in seeds}
    human = draw_different(instructions, wanted, run_seed, "human", number, request)
    return [by_seed[name] for name in human] + [by_slot[name] for name in chosen]
