"""What all arms of a comparison share: one base model, one judge, one pool, one set of seeds.

It is read from a home in which the graph was materialised, and is small enough to be handed to
other processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refine_dagster.errors import RefineError
from refine_dagster.language_model import ModelRef
from refine_dagster.lineage.checkpoints import CheckpointStore
from refine_dagster.lineage.content import content_id
from refine_dagster.lineage.warehouse import Warehouse
from refine_dagster.refine_af.instances import SeedTriple, seed_triples
from refine_dagster.registered_models import registered_base
from refine_dagster.self_instruct.decisions import in_slot_order

NEEDED = ("seed_tasks", "base_model", "feedback_judge", "filtered_instructions")


@dataclass(frozen=True)
class Material:
    """The shared inputs.

    Attributes:
        base: the base model.
        judge: the live row of `feedback_judge`.
        seeds: seed triples, by seed id.
        pool: live rows of `filtered_instructions`, in slot order.
        checkpoints: artifact root of the home.
    """

    base: ModelRef
    judge: Mapping[str, Any]
    seeds: tuple[SeedTriple, ...]
    pool: tuple[dict[str, Any], ...]
    checkpoints: Path

    @property
    def content(self) -> str:
        """Names everything here by content, not by place."""
        return content_id(
            "comparison_material",
            {
                "base": self.base.fingerprint,
                "judge": self.judge["fingerprint"],
                "seeds": [seed.triple.render() for seed in self.seeds],
                "pool": [row["instruction"] for row in self.pool],
            },
        )


def read_material(warehouse: Warehouse, checkpoints: Path) -> Material:
    """Read a home.

    Raises:
        RefineError: an asset that is needed was never materialised, or is empty.
    """
    absent = [name for name in NEEDED if warehouse.read(name).is_empty()]
    if absent:
        raise RefineError(
            f"a comparison needs {', '.join(absent)}, and there are no rows",
            where=str(warehouse.path),
            fix="run `refine-dagster run --select "
            '"+feedback_judge or +filtered_instructions"` first',
        )
    seeds = seed_triples(warehouse.read("seed_tasks").to_dicts())
    pool = in_slot_order(warehouse.read("filtered_instructions").to_dicts())
    [base_row] = warehouse.read("base_model").to_dicts()
    [judge_row] = warehouse.read("feedback_judge").to_dicts()
    return Material(
        base=registered_base(CheckpointStore(checkpoints), base_row),
        judge={name: judge_row[name] for name in ("kind", "fingerprint", "checkpoint_hash")},
        seeds=tuple(sorted(seeds, key=lambda seed: seed.seed_id)),
        pool=tuple(pool),
        checkpoints=checkpoints,
    )
