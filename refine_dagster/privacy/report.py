"""The privacy report: audits as rows, and whether their controls behave as expected."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist

from refine_dagster.privacy.attacks import (
    ATTACKS,
    LEAST_FOR_LOW_FPR,
    LOW_FPR,
    AttackResult,
)
from refine_dagster.privacy.audit import BAG_OF_WORDS, BASE_MODEL, NONE, OVER_FITTED, Audit
from refine_dagster.statistics import COVERAGE
from refine_dagster.warehouse.rows import Parent, Row, as_parent, make_row

NEGATIVE_CONTROLS = (BASE_MODEL, BAG_OF_WORDS)
# The attack that must find what a model has memorised, and the AUC that it must exceed.
PLAINEST_ATTACK = "loss"
OVER_FITTED_AUC = 0.95
# Chance that any negative control of a report is called off chance level although it is not.
FALSE_ALARM = 0.01


def findings(audit: Audit) -> list[Row]:
    """Payloads of `privacy_report`: one for each attack of an audit and of its controls.

    The refusal says which figures are missing, and why.
    """
    if not audit.refusal:
        return [_finding(audit.arm, control, result) for control, result in audit.results]
    missing = dict.fromkeys(("auc", "auc_low", "auc_high", "advantage", "tpr_at_low_fpr"))
    sizes = {"members": len(audit.split.members), "others": len(audit.split.others)}
    named = {"arm": audit.arm, "control": audit.control, "refusal": audit.refusal}
    return [{**named, "attack": attack, **sizes, **missing} for attack in ATTACKS]


def _finding(arm: str, control: str, result: AttackResult) -> Row:
    refusal = None
    if result.tpr_at_low_fpr is None:
        refusal = (
            f"true positives at {LOW_FPR:.0%} false ones: {result.others} non-members, at least "
            f"{LEAST_FOR_LOW_FPR} are needed"
        )
    figures = asdict(result) | {"advantage": result.advantage}
    return {"arm": arm, "control": control, "refusal": refusal, **figures}


def audited_model(audit: Audit) -> Row:
    """The payload of a row of `privacy_audits`: the model that was trained or refused."""
    steps = audit.training.steps if audit.training else []
    return {
        "arm": audit.arm,
        "control": audit.control,
        "members": len(audit.split.members),
        "others": len(audit.split.others),
        "steps": audit.steps,
        "loss_first": steps[0].loss if steps else None,
        "loss_last": steps[-1].loss if steps else None,
        "refusal": audit.refusal,
    }


def privacy_scores(audit: Audit) -> list[tuple[str, Row]]:
    """Payloads of `privacy_scores`, each with its example's row id; none for a control.

    An attack's score should be higher for members.
    """
    if audit.control == OVER_FITTED:
        return []
    rows = []
    for scored in audit.scores:
        example = scored.example.example
        identity = {"instruction": example.instruction, "input": example.input}
        payload = {"arm": audit.arm, **identity, "member": scored.member, **scored.scores}
        rows.append((scored.example.row_id, payload))
    return rows


def off_chance(controls: Sequence[Row]) -> list[str]:
    """The negative controls whose AUC is too far from 0.5, as `arm control attack`.

    Of the fifteen 95 % intervals of a report, one misses 0.5 every other time by chance alone. So
    they are widened for their number (Bonferroni), to one false alarm in a hundred reports.
    """
    negative = [row for row in controls if row["control"] in NEGATIVE_CONTROLS]
    if not negative:
        return []
    normal = NormalDist()
    usual = normal.inv_cdf((1 + COVERAGE) / 2)
    wider = normal.inv_cdf(1 - FALSE_ALARM / (2 * len(negative))) / usual
    off = []
    for row in negative:
        auc = row["auc"]
        if auc is None:
            continue
        # The half of the interval that faces 0.5.
        reach = row["auc_high"] - auc if auc < 0.5 else auc - row["auc_low"]
        if abs(auc - 0.5) > wider * reach:
            off.append(f"{row['arm']} {row['control']} {row['attack']}")
    return off


def over_fitting_missed(controls: Sequence[Row]) -> list[str]:
    """Arms whose over-fitted model's members the plainest attack does not find."""
    return [
        row["arm"]
        for row in controls
        if (row["control"], row["attack"]) == (OVER_FITTED, PLAINEST_ATTACK)
        and (row["auc"] is None or not row["auc"] > OVER_FITTED_AUC)
    ]


def audit_tables(
    audits: Iterable[Audit], sources: Mapping[str, str], models: Mapping[str, Sequence[Parent]]
) -> dict[str, list[Row]]:
    """The report's tables.

    Args:
        sources: arm -> the table of its examples.
        models: arm -> the rows of the models that its audit is about.
    """
    report: list[Row] = []
    audited: list[Row] = []
    scores: list[Row] = []
    for audit in audits:
        table = sources[audit.arm]
        sides = ((audit.split.members, "trained_on"), (audit.split.others, "held_out"))
        examples = [Parent(table, item.row_id, role) for side, role in sides for item in side]
        model = make_row("privacy_audits", audited_model(audit), [*models[audit.arm], *examples])
        owner = as_parent("privacy_audits", model, "audit")
        audited.append(model)
        report += [make_row("privacy_report", row, [owner]) for row in findings(audit)]
        scores += [
            make_row("privacy_scores", payload, [owner, Parent(table, row_id, "example")])
            for row_id, payload in privacy_scores(audit)
        ]
    return {"privacy_report": report, "privacy_audits": audited, "privacy_scores": scores}


def audit_figures(report: Iterable[Row]) -> dict[str, float | None]:
    """The AUC of every arm and attack, from rows of `privacy_report`."""
    return {
        f"auc_{row['arm']}_{row['attack']}": row["auc"] for row in report if row["control"] == NONE
    }
