"""What counts as a control gone wrong, and that chance among many controls does not."""

from __future__ import annotations

import random

from refine_dagster.privacy.attacks import AttackResult
from refine_dagster.privacy.audit import Audit, AuditSplit, bag_of_words_result
from refine_dagster.privacy.report import findings, off_chance, over_fitting_missed
from refine_dagster.warehouse.rows import Row
from refine_dagster.warehouse.tables import TABLES

CONTROL: Row = {
    "arm": "seeds_only",
    "control": "base_model",
    "attack": "loss",
    "auc": 0.5,
    "auc_low": 0.42,
    "auc_high": 0.58,
}


def test_findings_have_the_columns_of_their_table() -> None:
    split = AuditSplit((), ())
    refused = Audit("seeds_only", "none", split, 0, None, (), (), "too few")
    result = AttackResult("loss", 120, 20, 0.5, 0.4, 0.6, None)
    audited = Audit("seeds_only", "none", split, 1, None, (("none", result),), (), None)
    for row in [*findings(refused), *findings(audited)]:
        assert row.keys() == TABLES["privacy_report"].columns.keys()


def at(auc: float, **named: str) -> Row:
    return {**CONTROL, "auc": auc, "auc_low": auc - 0.08, "auc_high": auc + 0.08, **named}


def test_one_control_off_its_interval_among_fifteen_is_chance() -> None:
    assert off_chance([at(0.59), *[CONTROL] * 14]) == []
    assert off_chance([at(0.41), *[CONTROL] * 14]) == []
    # On its own it would still be within the interval of one in a hundred.
    assert off_chance([at(0.59)]) == []


def test_a_control_far_off_is_named_on_either_side() -> None:
    for auc in (0.30, 0.70):
        assert off_chance([at(auc), *[CONTROL] * 14]) == ["seeds_only base_model loss"]


def test_only_negative_controls_are_held_to_chance() -> None:
    others = [at(0.9, control=control) for control in ("none", "over_fitted")]
    assert off_chance(others) == []
    assert off_chance([]) == []


def test_the_over_fitted_model_must_be_found_by_its_loss() -> None:
    assert over_fitting_missed([at(0.99, control="over_fitted")]) == []
    assert over_fitting_missed([at(0.9, control="over_fitted")]) == ["seeds_only"]
    other = at(0.7, control="over_fitted", attack="min_k_plus_plus")
    assert over_fitting_missed([other]) == []


def _texts(count: int, first: str, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{first} {' '.join(rng.choices('abcdefghijkl', k=6))}" for _ in range(count)]


def test_words_that_tell_the_sides_are_seen() -> None:
    told = bag_of_words_result(_texts(40, "sun", 1), _texts(40, "moon", 2), run_seed="s")
    assert told.auc == 1.0
    assert told.auc_low > 0.6
    assert told.auc_high == 1.0


def test_alike_texts_stay_within_the_interval_about_as_often_as_it_says() -> None:
    inside = 0
    for seed in range(20):
        texts = _texts(60, "sun", seed)
        told = bag_of_words_result(texts[:30], texts[30:], run_seed=str(seed))
        inside += told.auc_low <= 0.5 <= told.auc_high
    assert inside >= 16
