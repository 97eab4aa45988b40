"""Where a request's machine demonstrations come from: its own lane, or every accepted instruction.

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
from collections.abc import Sequence

from refine_dagster.knobs import SelfInstructKnobs
from refine_dagster.lineage.rows import Row
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider


class MachinePool:
    """Machine-made demonstrations by request number.

    Args:
        seeds: the seed tasks.
        decider: decides on all candidates; its pool is the one drawn from with
            `machine_pool: all`.
        knobs: `machine_pool`, and the rules of a lane's own decider.
        former: the pool of the former policy round; named by their slots.
    """

    def __init__(
        self,
        seeds: Sequence[Demonstration],
        decider: InstructionDecider,
        knobs: SelfInstructKnobs,
        former: Sequence[Demonstration] = (),
    ) -> None:
        self._seeds = seeds
        self._all = decider
        self._knobs = knobs
        self._former = former
        self._former_of: defaultdict[int, list[Demonstration]] = defaultdict(list)
        for one in former:
            self._former_of[request_of(one.name)].append(one)
        self._lanes: dict[tuple[int, int], InstructionDecider] = {}

    def add(self, candidates: Sequence[Row]) -> None:
        """Take in a round's rows of `raw_instructions`, in slot order."""
        if self._knobs.machine_pool == "all":
            return
        by_lane: defaultdict[tuple[int, int], list[Row]] = defaultdict(list)
        for candidate in candidates:
            by_lane[self._lane(candidate["round"], candidate["request"])].append(candidate)
        for lane, rows in by_lane.items():
            if lane not in self._lanes:
                pool = [*self._seeds, *self._former_of[lane[0]]]
                self._lanes[lane] = InstructionDecider(pool, self._knobs)
            self._lanes[lane].decide(rows)

    def of(self, number: int, request: int) -> Sequence[Demonstration]:
        """What request `request` of round `number` may show."""
        if self._knobs.machine_pool == "all":
            return [*self._former, *self._all.accepted]
        lane = self._lanes.get(self._lane(number, request))
        return [*self._former_of[request], *(lane.accepted if lane else ())]

    def _lane(self, number: int, request: int) -> tuple[int, int]:
        """The request's number, and how often its lane has begun afresh by round `number`."""
        return request, (number + request) // self._knobs.lane_rounds


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
