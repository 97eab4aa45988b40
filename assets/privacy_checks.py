"""Asset checks of the privacy report: its controls, without which its findings say nothing."""

from dataclasses import fields

import dagster as dg

from refine_dagster.privacy.report import PrivacyFinding, off_chance, over_fitting_missed
from resources.warehouse import WarehouseResource


@dg.asset_check(asset="privacy_report", blocking=True)
def negative_controls_at_chance(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """Controls that cannot know the members do not find them: no AUC of the base model's
    likelihoods, or of a classifier of the texts alone, is farther from 0.5 than chance explains.
    Where one is, the halves of the audit differ by themselves."""
    controls = _privacy_findings(warehouse, "control IN ('base_model', 'bag_of_words')")
    off = off_chance(controls)
    return dg.AssetCheckResult(
        passed=not off,
        metadata={
            "off_chance": ", ".join(off) or "none",
            **{f"{one.arm}_{one.control}_{one.attack}": one.auc or 0.0 for one in controls},
        },
    )


@dg.asset_check(asset="privacy_report", blocking=True)
def over_fitting_is_seen(warehouse: WarehouseResource) -> dg.AssetCheckResult:
    """The members of a model that knows them by heart are found: the AUC of the attack `loss` is
    over 0.95. Where it is not, an AUC of 0.5 says nothing of the arms. Without an arm that has
    enough examples to be audited there is no such model."""
    controls = _privacy_findings(warehouse, "control = 'over_fitted'")
    missed = over_fitting_missed(controls)
    return dg.AssetCheckResult(
        passed=not missed,
        metadata={
            "missed": ", ".join(missed) or "none",
            **{f"{one.arm}_{one.attack}": one.auc or 0.0 for one in controls},
        },
    )


def _privacy_findings(warehouse: WarehouseResource, which: str) -> list[PrivacyFinding]:
    columns = ", ".join(one.name for one in fields(PrivacyFinding))
    rows = warehouse.open().query(
        f"SELECT {columns} FROM privacy_report WHERE {which} ORDER BY ALL"
    )
    return [PrivacyFinding(**row) for row in rows.to_dicts()]
