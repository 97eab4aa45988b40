"""The guard sees a collapse, warns first, and lets a good training alone."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from refine_dagster.config.dataset import TeamsRLConfig
from refine_dagster.teams_rl.instructor import (
    InstructorUpdate,
    guard_of,
    operation_entropy,
    warning_of,
)

CONFIG = TeamsRLConfig(guard_window=3, guard_patience=2, min_operation_entropy=0.3)


def updates(
    valid: list[float], diversity: list[float], entropy: float = 1.5
) -> list[InstructorUpdate]:
    """Rows with the guard's warnings, as a training writes them."""
    rows: list[InstructorUpdate] = []
    for place, (share, score) in enumerate(zip(valid, diversity, strict=True)):
        row = InstructorUpdate(place + 1, 12 * (place + 1), 0.0, share, score, 30.0, entropy, 0)
        rows.append(row)
        rows[-1] = replace(row, warning=warning_of(rows, CONFIG))
    return rows


def test_rising_validity_with_falling_diversity_warns_and_then_ends() -> None:
    rows = updates([0.5] * 3 + [0.9] * 6, [32.0] * 3 + [20.0] * 6)
    assert [row.warning for row in rows] == [None] * 5 + ["diversity"] * 4
    assert [guard_of(rows[:length], CONFIG) for length in (5, 6, 7, 8)] == [
        None,
        None,
        None,
        "diversity",
    ]


def test_diversity_over_random_or_validity_that_falls_is_no_collapse() -> None:
    assert updates([0.5] * 3 + [0.9] * 6, [32.0] * 9)[-1].warning is None
    assert updates([0.9] * 3 + [0.5] * 6, [32.0] * 3 + [20.0] * 6)[-1].warning is None


def test_one_operation_alone_is_a_collapse_whatever_is_reached() -> None:
    rows = updates([0.5] * 9, [40.0] * 9, entropy=0.1)
    assert rows[-1].warning == "operations"
    assert guard_of(rows, CONFIG) == "operations"


def test_a_recovery_takes_the_warnings_back() -> None:
    rows = updates([0.5] * 3 + [0.9] * 4, [32.0] * 3 + [20.0] * 3 + [80.0])
    assert rows[5].warning == "diversity"
    assert rows[-1].warning is None
    assert guard_of(rows, CONFIG) is None


def test_entropy_of_operations() -> None:
    assert operation_entropy([*"abcdef"] * 4) == pytest.approx(math.log(6))
    assert operation_entropy(["a"] * 9) == 0.0
    assert operation_entropy([*"aabb"]) == pytest.approx(math.log(2))
