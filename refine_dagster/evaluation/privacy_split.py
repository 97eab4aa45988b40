"""Which examples an audit trains on and which it keeps from training.

A membership attack is only worth something where members and non-members are alike in all but
having been trained on. They are alike where chance alone parts them, so an example's side is drawn
from the run's salt and its instruction, before any training and without looking at a model:

- a side does not depend on the other examples, so an edited or removed seed moves none of them;
- all instances of an instruction lie on one side, as a model that learned one knows the others;
- the same instruction lies on the same side in every arm that has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from refine_dagster.generation.request import request_seed
from refine_dagster.refine_af.instance_prompt import Triple

# Examples a side under which nothing is told: an AUC's interval would be half a unit wide.
LEAST_A_SIDE = 20


@dataclass(frozen=True)
class Example:
    """An example that an arm learns from; `row_id` names it in the warehouse."""

    row_id: str
    triple: Triple


@dataclass(frozen=True)
class AuditSplit:
    """The examples that the audited model is trained on, and those that it never sees."""

    members: tuple[Example, ...]
    others: tuple[Example, ...]

    @property
    def refusal(self) -> str | None:
        """Why membership cannot be measured with so few; None where it can."""
        if min(len(self.members), len(self.others)) >= LEAST_A_SIDE:
            return None
        return (
            f"{len(self.members)} members and {len(self.others)} non-members, "
            f"at least {LEAST_A_SIDE} of each are needed"
        )


def is_member(instruction: str, salt: str) -> bool:
    """Whether an audited model is trained on an instruction's instances; of many, on half."""
    return request_seed(salt, "privacy", "side", instruction) % 2 == 0


def split_examples(examples: Iterable[Example], most: int, salt: str) -> AuditSplit:
    """Part the examples; the result does not depend on their order or ids.

    Args:
        most: examples kept in all, half of them on each side; which is drawn likewise.
    """

    def place(example: Example) -> tuple[int, str]:
        text = example.triple.render()
        return request_seed(salt, "privacy", "order", text), text

    ordered = sorted(examples, key=place)
    members = [one for one in ordered if is_member(one.triple.instruction, salt)]
    others = [one for one in ordered if not is_member(one.triple.instruction, salt)]
    return AuditSplit(tuple(members[: most // 2]), tuple(others[: most // 2]))
