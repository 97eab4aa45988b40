"""The privacy report: audits as rows, and whether their controls behave as controls should.

A row says what it does not tell, and why: an arm with too few examples has no AUC, and one with
under 100 non-members has no true-positive rate at 1 % false positives, as that percent would be
less than one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from refine_dagster.privacy.attacks import (
    ATTACKS,
    LEAST_FOR_LOW_FPR,
    LOW_FPR,
    AttackResult,
)
from refine_dagster.privacy.audit import BAG_OF_WORDS, BASE_MODEL, OVER_FITTED, Audit
from refine_dagster.statistics import COVERAGE

NEGATIVE_CONTROLS = (BASE_MODEL, BAG_OF_WORDS)
# The attack that must find what a model knows by heart, and the AUC that it must reach.
PLAINEST_ATTACK = "loss"
FOUND = 0.95
# How rarely the negative controls of a whole report may be taken for off chance without being so.
FALSE_ALARM = 0.01


@dataclass(frozen=True)
class PrivacyFinding:
    """A row of the table `privacy_report`."""

    arm: str
    control: str
    attack: str
    members: int
    others: int
    auc: float | None
    auc_low: float | None
    auc_high: float | None
    advantage: float | None
    tpr_at_low_fpr: float | None
    refusal: str | None


@dataclass(frozen=True)
class AuditedModel:
    """A row of the table `privacy_audits`."""

    arm: str
    control: str
    members: int
    others: int
    steps: int
    loss_first: float | None
    loss_last: float | None
    refusal: str | None


@dataclass(frozen=True)
class PrivacyScore:
    """A row of the table `privacy_scores`; attacks' scores, higher for members."""

    arm: str
    instruction: str
    input: str
    member: bool
    loss: float
    calibrated: float
    zlib: float
    min_k: float
    min_k_plus_plus: float


def findings(audit: Audit) -> list[PrivacyFinding]:
    """Rows of an audit, one for each attack of it and of its controls."""
    if audit.refusal:
        members, others = len(audit.split.members), len(audit.split.others)
        nothing = (None,) * 5
        return [
            PrivacyFinding(
                audit.arm, audit.control, attack, members, others, *nothing, audit.refusal
            )
            for attack in ATTACKS
        ]
    return [_finding(audit.arm, control, result) for control, result in audit.results]


def _finding(arm: str, control: str, result: AttackResult) -> PrivacyFinding:
    refusal = None
    if result.tpr_at_low_fpr is None:
        refusal = (
            f"true positives at {LOW_FPR:.0%} false ones: {result.others} non-members, at least "
            f"{LEAST_FOR_LOW_FPR} are needed"
        )
    return PrivacyFinding(
        arm=arm,
        control=control,
        attack=result.attack,
        members=result.members,
        others=result.others,
        auc=result.auc,
        auc_low=result.auc_low,
        auc_high=result.auc_high,
        advantage=result.advantage,
        tpr_at_low_fpr=result.tpr_at_low_fpr,
        refusal=refusal,
    )


def audited_model(audit: Audit) -> AuditedModel:
    """The row of the model that an audit trained, or was refused."""
    steps = audit.training.steps if audit.training else []
    return AuditedModel(
        arm=audit.arm,
        control=audit.control,
        members=len(audit.split.members),
        others=len(audit.split.others),
        steps=audit.steps,
        loss_first=steps[0].loss if steps else None,
        loss_last=steps[-1].loss if steps else None,
        refusal=audit.refusal,
    )


def privacy_scores(audit: Audit) -> list[tuple[str, PrivacyScore]]:
    """Rows of an arm's examples, each with the example's row id; a control has none."""
    if audit.control == OVER_FITTED:
        return []
    return [
        (
            one.example.row_id,
            PrivacyScore(
                arm=audit.arm,
                instruction=one.example.example.instruction,
                input=one.example.example.input,
                member=one.member,
                **one.scores,
            ),
        )
        for one in audit.scores
    ]


def off_chance(controls: Sequence[PrivacyFinding]) -> list[str]:
    """The negative controls whose AUC is farther from one half than chance takes any of so many.

    Each interval leaves out one half once in twenty times, so of the fifteen of a report one does
    every other time. The intervals are therefore widened for their number (Bonferroni), to one
    false alarm in a hundred reports.

    Returns:
        `arm control attack` of each that is off; other controls are left alone.
    """
    negative = [one for one in controls if one.control in NEGATIVE_CONTROLS]
    if not negative:
        return []
    normal = NormalDist()
    usual = normal.inv_cdf((1 + COVERAGE) / 2)
    wider = normal.inv_cdf(1 - FALSE_ALARM / (2 * len(negative))) / usual
    off = []
    for one in negative:
        if one.auc is None or one.auc_low is None or one.auc_high is None:
            continue
        # The side of the interval that faces one half.
        reach = one.auc_high - one.auc if one.auc < 0.5 else one.auc - one.auc_low
        if abs(one.auc - 0.5) > wider * reach:
            off.append(f"{one.arm} {one.control} {one.attack}")
    return off


def over_fitting_missed(controls: Sequence[PrivacyFinding]) -> list[str]:
    """The over-fitted models whose members the plainest attack does not find."""
    return [
        one.arm
        for one in controls
        if one.control == OVER_FITTED
        and one.attack == PLAINEST_ATTACK
        and not (one.auc is not None and one.auc > FOUND)
    ]
