"""Where a request's machine demonstrations come from: its own lane, or every accepted instruction.

The published loop draws them from all that was accepted so far. A changed seed then changes a few
prompts of the first round, what they wrote changes prompts of the second that drew from it, and
after some rounds most prompts have changed. A lane is the line of requests with one number, round
after round; a request that draws only from what its own lane wrote passes a change on to its lane
and to no other. For that the lane must decide by itself too: what it may show is what the decider
would accept on a pool of the seeds and the lane's own candidates, whatever other lanes wrote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from refine_dagster.lineage.rows import Row
from refine_dagster.profile import SelfInstructKnobs
from refine_dagster.self_instruct.decisions import Demonstration, InstructionDecider


class MachinePool:
    """Machine-made demonstrations by request number.

    Args:
        seeds: the seed tasks.
        decider: decides on all candidates; its pool is the one drawn from with
            `machine_pool: all`.
        knobs: `machine_pool`, and the rules of a lane's own decider.
    """

    def __init__(
        self,
        seeds: Sequence[Demonstration],
        decider: InstructionDecider,
        knobs: SelfInstructKnobs,
    ) -> None:
        self._seeds = seeds
        self._all = decider
        self._knobs = knobs
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
                self._lanes[lane] = InstructionDecider(self._seeds, self._knobs)
            self._lanes[lane].decide(rows)

    def of(self, request: int) -> Sequence[Demonstration]:
        """What request number `request` of the next round may show."""
        if self._knobs.machine_pool == "all":
            return self._all.accepted
        lane = self._lanes.get(request)
        return lane.accepted if lane else ()


def slot_name(number: int, request: int, position: int) -> str:
    """A candidate's slot, zero-padded so that names sort as the places do.

    >>> slot_name(2, 17, 0)
    '0002/0017/000'
    """
    return f"{number:04d}/{request:04d}/{position:03d}"
