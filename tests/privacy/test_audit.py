"""An audit tells an arm that learns by heart from one that hardly learns, beside its controls."""

from __future__ import annotations

import pytest

from refine_dagster.config.learning import PrivacyConfig, SupervisedConfig
from refine_dagster.config.models import BaseModelConfig
from refine_dagster.models.device import Device
from refine_dagster.models.language_model import ModelRef, resolve_model
from refine_dagster.offline.base_model import train_base_model
from refine_dagster.privacy.attacks import ATTACKS
from refine_dagster.privacy.audit import (
    BAG_OF_WORDS,
    BASE_MODEL,
    NONE,
    OVER_FITTED,
    Audit,
    AuditedArm,
    AuditExample,
    audit_arms,
    is_member,
)
from refine_dagster.privacy.report import (
    audited_model,
    findings,
    over_fitting_missed,
    privacy_scores,
)
from refine_dagster.prompts.example import Example
from refine_dagster.seeds.readers import read_seeds
from refine_dagster.warehouse.rows import make_row

pytestmark = pytest.mark.slow

PRIVACY = PrivacyConfig(over_fitted_examples=8, over_fitted_epochs=20, bootstrap_samples=200)
SUPERVISED = SupervisedConfig(learning_rate=1e-2)
SEEDS = [AuditExample(seed.seed_id, seed.example) for seed in read_seeds("packaged").seeds]
POOR, EAGER, LAZY = SEEDS[:10], SEEDS[10:70], SEEDS[70:130]
LONG = AuditExample("long", Example("List many words.", "", "cat " * 300))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, device: Device) -> ModelRef:
    """A small offline base model that has not seen the seeds."""
    config = BaseModelConfig(
        hidden_size=64,
        layers=2,
        heads=2,
        previous_token_heads=1,
        vocab_size=640,
        primer_tasks=200,
        steps=100,
        sequence_length=128,
        learning_rate=6e-3,
    )
    folder = tmp_path_factory.mktemp("base")
    train_base_model([], config, folder, device, "s")
    return resolve_model(str(folder))


@pytest.fixture(scope="module")
def audits(base: ModelRef, device: Device) -> list[Audit]:
    """An arm with hardly anything to learn from, one that takes many passes, one that takes few."""
    arms = [
        AuditedArm("poor", POOR, steps=50, rows=10),
        AuditedArm("eager", [*EAGER, LONG], steps=90, rows=60),
        AuditedArm("lazy", LAZY, steps=2, rows=60),
    ]
    return audit_arms(base, arms, PRIVACY, SUPERVISED, device, "s")


def aucs(audit: Audit, control: str) -> dict[str, float]:
    return {one.attack: one.auc for of, one in audit.results if of == control}


def test_the_first_arm_with_enough_examples_has_the_positive_control(audits: list[Audit]) -> None:
    assert [(one.arm, one.control) for one in audits] == [
        ("poor", NONE),
        ("eager", NONE),
        ("eager", OVER_FITTED),
        ("lazy", NONE),
    ]


def test_an_arm_with_too_few_examples_is_refused_and_trains_nothing(audits: list[Audit]) -> None:
    poor = audits[0]
    assert poor.training is None
    assert (poor.steps, poor.results, poor.scores) == (0, (), ())
    rows = findings(poor)
    assert [row["attack"] for row in rows] == list(ATTACKS)
    assert {row["auc"] for row in rows} == {None}
    assert {row["refusal"] for row in rows} == {poor.split.refusal}
    assert make_row("privacy_audits", audited_model(poor))["loss_last"] is None


def test_learning_by_heart_is_told_from_hardly_learning(audits: list[Audit]) -> None:
    _, eager, over_fitted, lazy = audits
    assert aucs(eager, NONE)["loss"] > 0.75
    assert aucs(eager, NONE)["calibrated"] > 0.85
    assert aucs(over_fitted, OVER_FITTED)["loss"] > 0.95
    # Two steps change next to nothing: what is left is how far chance took the base model.
    assert abs(aucs(lazy, NONE)["loss"] - aucs(lazy, BASE_MODEL)["loss"]) < 0.05
    assert over_fitting_missed([row for audit in audits for row in findings(audit)]) == []


def test_every_arm_has_its_negative_controls(audits: list[Audit]) -> None:
    for audit in (audits[1], audits[3]):
        assert list(aucs(audit, NONE)) == list(ATTACKS)
        assert list(aucs(audit, BASE_MODEL)) == [one for one in ATTACKS if one != "calibrated"]
        assert list(aucs(audit, BAG_OF_WORDS)) == [BAG_OF_WORDS]
    assert list(aucs(audits[2], OVER_FITTED)) == list(ATTACKS)


def test_members_are_those_of_the_split_and_what_is_too_long_is_on_neither_side(
    audits: list[Audit],
) -> None:
    eager = audits[1]
    scored = dict(privacy_scores(eager))
    assert "long" not in scored
    assert scored.keys() == {one.row_id for one in EAGER}
    for row in scored.values():
        made = make_row("privacy_scores", row)
        assert made["member"] == is_member(made["instruction"], "s")
    assert eager.training is not None
    assert (
        eager.training.rows
        == len(eager.split.members)
        == sum(row["member"] for row in scored.values())
    )
    # As many passes over each example as the arm took.
    assert eager.steps == round(90 * len(eager.split.members) / 60)
    assert len(eager.training.steps) == eager.steps
    assert privacy_scores(audits[2]) == []


def test_under_a_hundred_others_the_low_rate_is_refused_with_its_reason(
    audits: list[Audit],
) -> None:
    for row in findings(audits[1]):
        assert row["tpr_at_low_fpr"] is None
        assert f"{row['others']} non-members, at least 100 are needed" in row["refusal"]


def test_the_same_arm_gives_the_same_audit(
    base: ModelRef, device: Device, audits: list[Audit]
) -> None:
    few = PRIVACY.model_copy(update={"over_fitted_epochs": 1})
    arm = AuditedArm("lazy", LAZY[::-1], steps=2, rows=60)
    again = audit_arms(base, [arm], few, SUPERVISED, device, "s")
    assert again[0] == audits[3]
