"""Checks on what was learnt: they pass on good figures, and fail on each kind of bad ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets import feedback, policy, privacy
from refine_dagster.warehouse.rows import make_row
from refine_dagster.warehouse.tables import TABLES
from refine_dagster.warehouse.warehouse import Warehouse
from resources.profile import ProfileResource
from resources.warehouse import WarehouseResource
from tests.builders.fake_judge import PART_NAMES, scores_of
from tests.builders.rows import row
from tests.builders.warehouse import commit, new_warehouse

PROFILE = ProfileResource(
    overrides={
        "reinforcement.guard_window": 2,
        "reinforcement.max_kl": 0.5,
        "reinforcement.min_diversity_share": 0.5,
    }
)


def _checked(
    check: dg.AssetChecksDefinition, database: Path, *further: ProfileResource
) -> dg.AssetCheckResult:
    found = check(*further, WarehouseResource(database=str(database)))
    assert isinstance(found, dg.AssetCheckResult)
    return found


def _judge(database: Path, lows: dict[str, float]) -> None:
    figures = [
        row("feedback_judge_quality", dimension=part, measure=measure, value=value)
        for part, low in lows.items()
        for measure, value in (("auc_low", low), ("auc", low + 0.1), ("auc_correctness", 0.5))
    ]
    tables = {"feedback_judge": [row("feedback_judge")], "feedback_judge_quality": figures}
    commit(new_warehouse(database), "feedback_judge", tables)


def _steps(database: Path, figures: Sequence[dict[str, Any]]) -> None:
    rows = [
        row("rl_policy_checkpoint_steps", parts=scores_of(), step=step, **one)
        for step, one in enumerate(figures, 1)
    ]
    commit(new_warehouse(database), "rl_policy_checkpoint", {"rl_policy_checkpoint_steps": rows})


@pytest.mark.parametrize(
    ("lows", "weak"),
    [
        (dict.fromkeys(PART_NAMES, 0.6), "none"),
        ({**dict.fromkeys(PART_NAMES, 0.6), "coherence": 0.49}, "coherence"),
        ({**dict.fromkeys(PART_NAMES, 0.6), "naturalness": 0.5}, "naturalness"),
        (dict.fromkeys(PART_NAMES[:3], 0.6), "reward_model"),
        ({}, ", ".join(sorted(PART_NAMES))),
    ],
)
def test_judge_auc(tmp_path: Path, lows: dict[str, float], weak: str) -> None:
    _judge(tmp_path / "w.duckdb", lows)
    found = _checked(feedback.judge_auc, tmp_path / "w.duckdb")
    assert found.passed == (weak == "none")
    assert found.metadata["not_above_the_floor"].value == weak
    if "coherence" in lows:
        assert found.metadata["coherence_auc_correctness"].value == 0.5


def test_kl_is_that_of_the_last_steps(tmp_path: Path) -> None:
    database = tmp_path / "w.duckdb"
    _steps(database, [{"kl": kl} for kl in (0.0, 9.0, 0.2, 0.8)])
    found = _checked(policy.kl_within_bound(), database, PROFILE)
    assert found.passed
    assert found.metadata["kl"].value == pytest.approx(0.5)
    _steps(database, [{"kl": kl} for kl in (0.0, 0.1, 0.3, 0.8)])
    assert not _checked(policy.kl_within_bound(), database, PROFILE).passed


def test_diversity_is_held_against_the_first_steps(tmp_path: Path) -> None:
    database = tmp_path / "w.duckdb"
    _steps(database, [{"diversity": one} for one in (0.8, 0.6, 0.0, 0.4, 0.3)])
    found = _checked(policy.diversity_above_floor(), database, PROFILE)
    assert found.passed
    assert found.metadata["floor"].value == pytest.approx(0.35)
    _steps(database, [{"diversity": one} for one in (0.8, 0.6, 0.9, 0.4, 0.2)])
    assert not _checked(policy.diversity_above_floor(), database, PROFILE).passed


def test_a_policy_without_steps_fails(tmp_path: Path) -> None:
    database = tmp_path / "w.duckdb"
    _steps(database, [])
    assert not _checked(policy.kl_within_bound(), database, PROFILE).passed
    assert not _checked(policy.diversity_above_floor(), database, PROFILE).passed


def _privacy(database: Path, base_auc: float, over_fitted: float | None) -> None:
    def row(control: str, auc: float | None) -> dict[str, Any]:
        told = None if auc is None else auc - 0.5
        return {
            **dict.fromkeys(TABLES["privacy_report"].columns),
            "arm": "seeds_only",
            "control": control,
            "attack": "loss",
            "members": 110,
            "others": 110,
            "auc": auc,
            "auc_low": None if auc is None else auc - 0.08,
            "auc_high": None if auc is None else auc + 0.08,
            "advantage": None if told is None else abs(told),
        }

    rows = [row("none", 0.9), row("base_model", base_auc)]
    rows += [] if over_fitted is None else [row("over_fitted", over_fitted)]
    tables = {
        "privacy_report": [make_row("privacy_report", one) for one in rows],
        "privacy_audits": [],
        "privacy_scores": [],
    }
    commit(Warehouse(database), "privacy_report", tables)


@pytest.mark.parametrize(("auc", "passed"), [(0.5, True), (0.57, True), (0.8, False), (0.2, False)])
def test_negative_controls_at_chance(tmp_path: Path, auc: float, passed: bool) -> None:
    _privacy(tmp_path / "w.duckdb", auc, 1.0)
    found = _checked(privacy.negative_controls_at_chance, tmp_path / "w.duckdb")
    assert found.passed == passed
    assert found.metadata["off_chance"].value == (
        "none" if passed else "seeds_only base_model loss"
    )


@pytest.mark.parametrize(("auc", "passed"), [(0.99, True), (0.9, False), (None, True)])
def test_over_fitting_is_seen(tmp_path: Path, auc: float | None, passed: bool) -> None:
    _privacy(tmp_path / "w.duckdb", 0.5, auc)
    found = _checked(privacy.over_fitting_is_seen, tmp_path / "w.duckdb")
    assert found.passed == passed
    assert found.metadata["missed"].value == ("none" if passed else "seeds_only")
