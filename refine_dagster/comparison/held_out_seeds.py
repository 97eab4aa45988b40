"""Seeds that no arm of a comparison learns from or shows.

`calibration` fits the temperature of every model's reference loss. `reference` is what the
influence of a row is measured on. The held-out tasks stay out of both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from refine_dagster.errors import RefineError
from refine_dagster.seeding import request_seed
from refine_dagster.warehouse.rows import Row

HELD_OUT_SHARE = 0.3


@dataclass(frozen=True)
class SeedParts:
    """A comparison's seeds, in the order given."""

    learned: tuple[Row, ...]
    calibration: tuple[Row, ...]
    reference: tuple[Row, ...]


def seed_parts(seeds: Sequence[Row], run_seed: str) -> SeedParts:
    """Part the seeds by their instructions; a share of `HELD_OUT_SHARE` is held out, half for each.

    Raises:
        RefineError: there are fewer than three different instructions.
    """
    texts = sorted(
        {row["instruction"] for row in seeds},
        key=lambda text: request_seed(run_seed, "comparison seeds", text),
    )
    if len(texts) < 3:
        raise RefineError(
            f"{len(texts)} seed instructions are too few for a comparison: one is learned from, "
            "one fits temperatures and one measures influence",
            fix="give more seeds",
        )
    held = max(2, round(HELD_OUT_SHARE * len(texts)))
    calibration, reference = set(texts[: held // 2]), set(texts[held // 2 : held])
    return SeedParts(
        learned=tuple(row for row in seeds if row["instruction"] in set(texts[held:])),
        calibration=tuple(row for row in seeds if row["instruction"] in calibration),
        reference=tuple(row for row in seeds if row["instruction"] in reference),
    )
