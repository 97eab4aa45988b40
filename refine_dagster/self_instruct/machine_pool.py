"""Where a request's machine demonstrations come from: its own lane, or every accepted instruction.

The published loop draws them from all that was accepted so far. A changed seed then changes a few
prompts of the first round, what they wrote changes prompts of the second that drew from it, and
after some rounds most prompts have changed. A lane is the line of requests with one number, round
after round; a request that draws only from what its own lane wrote passes a change on to its lane
and to no other. For that the lane must decide by itself too: what it may show is what the decider
would accept on a pool of the seeds and the lane's own candidates, whatever other lanes wrote.

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
        self._lanes: dict[int, InstructionDecider] = {}

    def add(self, candidates: Sequence[Row]) -> None:
        """Take in a round's rows of `raw_instructions`, in slot order."""
        if self._knobs.machine_pool == "all":
            return
        by_lane: defaultdict[int, list[Row]] = defaultdict(list)
        for candidate in candidates:
            by_lane[candidate["request"]].append(candidate)
        for lane, rows in by_lane.items():
            if lane not in self._lanes:
                pool = [*self._seeds, *self._former_of[lane]]
                self._lanes[lane] = InstructionDecider(pool, self._knobs)
            self._lanes[lane].decide(rows)

    def of(self, request: int) -> Sequence[Demonstration]:
        """What request number `request` of the next round may show."""
        if self._knobs.machine_pool == "all":
            return [*self._former, *self._all.accepted]
        lane = self._lanes.get(request)
        return [*self._former_of[request], *(lane.accepted if lane else ())]


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
