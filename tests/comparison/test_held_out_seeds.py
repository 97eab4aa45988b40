"""Seeds that no arm learns from."""

from __future__ import annotations

import pytest

from refine_dagster.comparison.held_out_seeds import SeedParts, seed_parts
from refine_dagster.errors import RefineError
from tests.builders.rows import seed_row

SEEDS = [seed_row(f"s{n}", f"Name thing {n // 2}.", output=str(n)) for n in range(40)]


def instructions(parts: SeedParts) -> list[set[str]]:
    sides = (parts.learned, parts.calibration, parts.reference)
    return [{row["instruction"] for row in side} for side in sides]


def test_every_instruction_is_on_one_side_with_all_its_seeds() -> None:
    parts = seed_parts(SEEDS, "run")
    learned, calibration, reference = instructions(parts)
    assert (len(learned), len(calibration), len(reference)) == (14, 3, 3)
    assert not learned & calibration | learned & reference | calibration & reference
    assert len(parts.learned) + len(parts.calibration) + len(parts.reference) == len(SEEDS)


def test_another_run_seed_holds_others_out() -> None:
    assert instructions(seed_parts(SEEDS, "run")) == instructions(seed_parts(SEEDS[::-1], "run"))
    assert instructions(seed_parts(SEEDS, "run")) != instructions(seed_parts(SEEDS, "other"))


def test_three_instructions_are_the_fewest() -> None:
    assert all(instructions(seed_parts(SEEDS[:6], "run")))
    with pytest.raises(RefineError, match="2 seed instructions are too few"):
        seed_parts(SEEDS[:4], "run")
